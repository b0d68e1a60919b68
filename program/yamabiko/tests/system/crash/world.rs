//! A mail system with every kind of delivery, and who sends to it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::arrivals::Watch;
use super::hop::Hop;
use super::message::Message;
use super::random::Random;
use crate::harness::{Client, Instance, as_root};

/// SMTP sessions at once.
const SESSIONS: u64 = 6;
/// Processes of `sendmail` at once.
const SUBMITTERS: u64 = 2;
/// A breath between messages, so that the queue does not only grow.
const PAUSE: Duration = Duration::from_millis(8);

/// The mail system and what stands around it.
pub struct World {
    pub instance: Instance,
    pub hop: Hop,
    /// Names of users of this machine, who get mail.
    pub users: [String; 2],
    pub watch: Watch,
}

impl World {
    /// Prepared and started.
    pub fn new() -> Self {
        Self::prepared(|_| {})
    }

    /// Prepared, changed, and started.
    pub fn prepared(change: impl FnOnce(&mut Instance)) -> Self {
        let mut instance = Instance::new();
        let dir = instance.path().to_owned();
        let dir = dir.display();
        let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        let own = own.expect("whoever runs the tests has a name");
        // As root mail is delivered under IDs of others: users that every Debian has and nobody uses.
        let users = if as_root() { ["games".to_owned(), "news".to_owned()] } else { [own.clone(), own] };
        for name in ["mail", "mails", "shared"] {
            let path = instance.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o1777)).unwrap();
        }
        if as_root() {
            let owner = nix::unistd::User::from_name("nobody").unwrap().unwrap();
            chown(instance.path().join("shared"), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
        }
        instance.file("boxes", "file@box.example file\ndir@box.example dir/\nsender@box.example sender/\n");
        instance.file("aliases", &format!("alias: {dir}/shared/aliased, twice@far.example\n"));
        instance.file("transport", "dirs.example localdir:\n");
        instance.services.push(format!("localdir unix - n n - - local -o mail_spool_directory={dir}/mails/"));
        for (name, value) in [
            // Nobody here wants to hear of refusals.
            ("notify_classes", String::new()),
            // What was put off is tried again soon.
            ("minimal_backoff_time", "1s".to_owned()),
            ("maximal_backoff_time", "2s".to_owned()),
            ("queue_run_delay", "1s".to_owned()),
            ("smtpd_error_sleep_time", "0".to_owned()),
            ("smtpd_client_connection_count_limit", "0".to_owned()),
            ("message_size_limit", "50000000".to_owned()),
            ("mailbox_size_limit", "0".to_owned()),
            ("virtual_mailbox_limit", "0".to_owned()),
            ("mydestination", "local.example, dirs.example".to_owned()),
            ("mail_spool_directory", format!("{dir}/mail")),
            ("alias_maps", format!("texthash:{dir}/etc/aliases")),
            ("transport_maps", format!("texthash:{dir}/etc/transport")),
            // The lock of a worker that was killed.
            ("stale_lock_time", "3s".to_owned()),
            ("virtual_mailbox_lock", "fcntl, dotlock".to_owned()),
        ] {
            instance.set(name, &value);
        }
        change(&mut instance);
        let (files, hop) = (Self::files(&instance, &users), Hop::start(instance.next_hop));
        let watch = Watch::start(files.into_iter().map(|(_, path)| path).collect());
        instance.start();
        Self { instance, hop, users, watch }
    }

    /// The mbox files.
    pub fn files(instance: &Instance, users: &[String; 2]) -> [(&'static str, PathBuf); 3] {
        let dir = instance.path();
        [
            ("file", dir.join("box/file")),
            ("user", dir.join("mail").join(&users[0])),
            ("aliased", dir.join("shared/aliased")),
        ]
    }

    /// The Maildirs.
    pub fn dirs(&self) -> [(&'static str, PathBuf); 3] {
        let dir = self.instance.path();
        [
            ("dir", dir.join("box/dir")),
            ("notice", dir.join("box/sender")),
            ("userdir", dir.join("mails").join(&self.users[1])),
        ]
    }
}

/// How a submission ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is ours from here on.
    Acknowledged,
    /// Nobody knows.
    Nothing,
    /// Try again later.
    Refused,
}

/// A message and what its sender heard.
#[derive(Clone, Debug)]
pub struct Sent {
    pub message: Message,
    pub said: Said,
    /// Begun and answered.
    pub between: (SystemTime, SystemTime),
    /// Through `sendmail`.
    pub by_command: bool,
}

/// What the senders did and saw.
#[derive(Default)]
pub struct Load {
    pub sent: Mutex<Vec<Sent>>,
    pub over: AtomicBool,
    /// Replies and ends of sessions that no client should see while the mail system is reloaded or stopped.
    pub rude: Mutex<Vec<String>>,
    /// Sessions that heard 421.
    pub dismissed: AtomicUsize,
}

impl Load {
    fn note(&self, message: Message, said: Said, began: SystemTime, by_command: bool) {
        let sent = Sent { message, said, between: (began, SystemTime::now()), by_command };
        self.sent.lock().unwrap().push(sent);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn rude(&self, what: String) {
        self.rude.lock().unwrap().push(what);
    }

    /// Sends from many sides until it is over.
    pub fn run<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>, world: &'s World, seed: u64, chapter: u64) {
        for number in 0..SESSIONS + SUBMITTERS {
            let mut random = Random::new(seed, chapter * 100 + number + 1);
            let name = move |count: u64| format!("c{chapter}s{number}n{count}");
            scope.spawn(move || {
                let mut count = 0;
                while !self.over() {
                    if number < SESSIONS {
                        self.session(world, &mut random, &mut count, &name);
                    } else {
                        count += 1;
                        self.submit(world, Message::new(name(count), &mut random));
                        std::thread::sleep(PAUSE * 10);
                    }
                }
            });
        }
    }

    fn submit(&self, world: &World, message: Message) {
        let began = SystemTime::now();
        let sender = message.from.address();
        let mut args = vec!["-i", "-f", if sender.is_empty() { "<>" } else { sender }];
        let recipients: Vec<String> = message.to.iter().map(|to| message.address(*to, &world.users)).collect();
        args.extend(recipients.iter().map(String::as_str));
        let said = world.instance.run_with("sendmail", &args, &message.text());
        let said = match said.code {
            0 => Said::Acknowledged,
            code => {
                self.rude(format!("sendmail: {said:?}"));
                if code == 75 { Said::Refused } else { Said::Nothing }
            }
        };
        self.note(message, said, began, true);
    }

    /// One session with some messages.
    fn session(&self, world: &World, random: &mut Random, count: &mut u64, name: &dyn Fn(u64) -> String) {
        let Ok(mut client) = Client::unheard(world.instance.smtp) else {
            std::thread::sleep(Duration::from_millis(20));
            return;
        };
        // Nobody has promised anything to a connection that only waits in the kernel's queue.
        match client.reply() {
            Ok(greeting) if greeting.code == 220 => {}
            Ok(greeting) => return self.not_wanted("greeting", &greeting.lines.join("/")),
            Err(_) => return,
        }
        match client.command("EHLO load.example") {
            Ok(reply) if reply.code == 250 => {}
            Ok(reply) => return self.not_wanted("EHLO", &reply.lines.join("/")),
            Err(error) => return self.rude(format!("EHLO: {error}")),
        }
        for _ in 0..1 + random.below(20) {
            if self.over() {
                break;
            }
            *count += 1;
            let message = Message::new(name(*count), random);
            let began = SystemTime::now();
            let recipients: Vec<String> = message.to.iter().map(|to| message.address(*to, &world.users)).collect();
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            match client.mail(message.from.address(), &recipients, &message.text()) {
                Ok(reply) if reply.code == 250 => self.note(message, Said::Acknowledged, began, false),
                Ok(reply) => {
                    self.note(message, Said::Refused, began, false);
                    return self.not_wanted("transaction", &reply.lines.join("/"));
                }
                Err(error) => {
                    self.note(message, Said::Nothing, began, false);
                    return self.rude(format!("transaction: {error}"));
                }
            }
            std::thread::sleep(PAUSE);
        }
        let _ = client.command("QUIT");
    }

    fn not_wanted(&self, when: &str, reply: &str) {
        if reply.starts_with("421 ") {
            self.dismissed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.rude(format!("{when}: {reply}"));
        }
    }
}

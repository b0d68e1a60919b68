//! Users of qmail: `.qmail` files in place of, or before, `.forward` (`local_delivery_style`; dot-qmail(5), qmail-local(8)).
//!
//! The words: *extension* is what follows the user's name and a dash in the address; *instructions* are the lines of the
//! file that was found for it. They are done in order, by the user; the first that fails ends it. Addresses are written to
//! last, all in one new message.

use std::sync::Arc;

use yamabiko_address::domain::fold_case;
use yamabiko_address::{quote, split_domain};
use yamabiko_status::EnhancedStatus;

use super::deliver::{Verdict, from_line, is_probe};
use super::local::{Expansion, FILE_LIMIT, LocalAgent};
use super::{As, Forward, User};
use crate::dot_qmail::{Instruction, candidates, instructions};
use crate::job::{Done, Exits, Form, Job, Lock, Place, QmailFile};

/// `local_delivery_style`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `.forward` alone.
    Postfix,
    /// `.qmail` alone.
    Qmail,
    /// `.qmail` where there is one for the address, `.forward` else.
    Both,
}

impl Style {
    pub(crate) fn of(text: &str) -> Self {
        match text {
            "qmail" => Self::Qmail,
            "both" => Self::Both,
            _ => Self::Postfix,
        }
    }
}

/// Whose address it is, and by which file.
struct Owner {
    user: Arc<User>,
    dash: String,
    extension: String,
}

/// What becomes of an address.
pub(super) enum Way {
    /// It is done, well or not.
    Done,
    /// This is not the way for it.
    None,
    /// No file says anything: into the mailbox of this user.
    Mailbox(Arc<User>),
}

/// One address on its way through a `.qmail` file.
struct Delivery<'a> {
    owner: &'a Owner,
    local: &'a str,
    host: &'a str,
    sender: &'a str,
    /// Envelope sender of what goes on.
    new_sender: String,
    default: Option<String>,
    forwards: Vec<String>,
    /// Files, addresses, programs.
    counts: [u32; 3],
}

impl LocalAgent {
    /// Delivers by the `.qmail` file for an address.
    pub(super) async fn dot_qmail(&self, expansion: &mut Expansion<'_>, address: &str) -> Way {
        let (local, host) = split_domain(address);
        let host = host.unwrap_or(&self.settings.myhostname);
        let owner = match self.qmail_owner(local) {
            Ok(Some(owner)) => owner,
            Ok(None) => return Way::None,
            Err(why) => {
                self.end(expansion, Some(address), Verdict::trouble(format!("user lookup error: {why}")));
                return Way::Done;
            }
        };
        let files = candidates(&owner.dash, &owner.extension);
        let base = files.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let job = Job::DotQmail {
            home: owner.user.home.clone(),
            candidates: files.iter().map(|(name, _)| name.clone()).collect(),
            base: base.clone(),
            limit: FILE_LIMIT,
        };
        let whose = As::Login { name: owner.user.name.clone(), spool: false };
        let found = match self.around.work(whose, job, None).await {
            Ok(Done::Qmail(found)) => found,
            other => {
                self.end(expansion, Some(address), Verdict::of(other, |_| String::new()));
                return Way::Done;
            }
        };
        let Some(found) = found else {
            if self.settings.style == Style::Both {
                return Way::None;
            }
            if owner.dash.is_empty() {
                return Way::Mailbox(owner.user);
            }
            let verdict =
                Verdict::new(EnhancedStatus::permanent(1, 1), "Sorry, no mailbox here by that name. (#5.1.1)");
            self.end(expansion, Some(address), verdict);
            return Way::Done;
        };
        let QmailFile { index, text, executable, has_owner, has_owner_default } = found;
        let (name, default) = files.get(index).cloned().unwrap_or_default();
        let mut list = instructions(&text, executable);
        if text.is_empty() {
            match self.settings.qmail_default_delivery.as_str() {
                "" => return Way::Mailbox(owner.user),
                default => list = instructions(default, false),
            }
        }
        if !expansion.claim(format!("qmail {} {name}", owner.user.name)) {
            return Way::Done;
        }
        if is_probe(expansion.request) {
            self.end(expansion, Some(address), Verdict::sent(format!("delivers by {name}")));
            return Way::Done;
        }
        let sender = expansion.request.sender.to_string();
        let new_sender = match (has_owner, has_owner_default) {
            _ if sender.is_empty() || sender == "#@[]" => sender.clone(),
            (true, true) => format!("{local}-owner-@{host}-@[]"),
            (true, false) => format!("{local}-owner@{host}"),
            (false, _) => sender.clone(),
        };
        let (forwards, counts) = (Vec::new(), [0; 3]);
        let mut delivery =
            Delivery { owner: &owner, local, host, sender: &sender, new_sender, default, forwards, counts };
        let verdict = self.follow(expansion, &mut delivery, list).await;
        self.end(expansion, Some(address), verdict);
        Way::Done
    }

    /// Whose an address is: the longest name of a user that it begins with, else the alias user's.
    fn qmail_owner(&self, local: &str) -> Result<Option<Owner>, String> {
        let breaks = match self.settings.recipient_delimiter.as_str() {
            "" => "-",
            delimiters => delimiters,
        };
        let ends = local.char_indices().rev().filter(|(_, c)| breaks.contains(*c)).map(|(at, c)| (at, Some(c)));
        for (at, mark) in [(local.len(), None)].into_iter().chain(ends) {
            let name = fold_case(&local[..at]);
            // No login name is longer; an address may be.
            if name.is_empty() || name.len() > 32 {
                continue;
            }
            let Some(user) = self.around.user(&name)?.filter(|user| user.uid != 0) else { continue };
            let extension = mark.map_or("", |mark| &local[at + mark.len_utf8()..]).to_owned();
            let dash = if mark.is_some() { "-" } else { "" }.to_owned();
            return Ok(Some(Owner { user, dash, extension }));
        }
        let alias = self.settings.qmail_alias_user.as_str();
        let user = if alias.is_empty() { None } else { self.around.user(alias)?.filter(|user| user.uid != 0) };
        Ok(user.map(|user| Owner { user, dash: "-".to_owned(), extension: local.to_owned() }))
    }

    async fn follow(
        &self,
        expansion: &mut Expansion<'_>,
        delivery: &mut Delivery<'_>,
        list: Vec<Instruction>,
    ) -> Verdict {
        for instruction in list {
            let (place, prepend, kind) = match instruction {
                Instruction::Refused(why) => return Verdict::trouble(why),
                Instruction::Forward(address) => {
                    delivery.counts[1] += 1;
                    delivery.forwards.push(address);
                    continue;
                }
                Instruction::Program(_) if !self.settings.commands.forward => {
                    return Verdict::new(EnhancedStatus::permanent(7, 1), "mail to command is restricted");
                }
                Instruction::Mailbox(_) | Instruction::Maildir(_) if !self.settings.files.forward => {
                    return Verdict::new(EnhancedStatus::permanent(7, 1), "mail to file is restricted");
                }
                Instruction::Program(command) => (self.program(expansion, delivery, command), String::new(), 2),
                Instruction::Mailbox(path) => (self.qmail_box(expansion, delivery, &path), delivery.fields(), 0),
                Instruction::Maildir(path) => {
                    let (path, limit) = (delivery.path(&path), self.settings.mailbox_limit);
                    (Place::Maildir { path, limit, trouble: "4.2.1".to_owned() }, delivery.fields(), 0)
                }
            };
            let whose = As::Login { name: delivery.owner.user.name.clone(), spool: false };
            let done = self.around.work(whose, Job::Deliver { place, prepend }, Some(&expansion.request.content)).await;
            let enough = matches!(done, Ok(Done::Enough(_)));
            let verdict = Verdict::of(done, |_| String::new());
            if verdict.status.class != yamabiko_status::Class::Success {
                return verdict;
            }
            delivery.counts[kind] += 1;
            if enough {
                break;
            }
        }
        if let Err(why) = self.forward_all(expansion, delivery).await {
            return Verdict::trouble(why);
        }
        let [files, forwards, programs] = delivery.counts;
        Verdict::sent(format!("did {files}+{forwards}+{programs}"))
    }

    /// All addresses in one message; with a sender for each, one message for each.
    async fn forward_all(&self, expansion: &Expansion<'_>, delivery: &mut Delivery<'_>) -> Result<(), String> {
        let forwards = std::mem::take(&mut delivery.forwards);
        if forwards.is_empty() {
            return Ok(());
        }
        let groups: Vec<(String, Vec<String>)> = match delivery.new_sender.strip_suffix("-@[]") {
            Some(_) => forwards
                .into_iter()
                .map(|address| {
                    let (local, domain) = split_domain(&address);
                    let domain = domain.unwrap_or(delivery.host);
                    (format!("{}-owner-{local}={domain}@{}", delivery.local, delivery.host), vec![address.clone()])
                })
                .collect(),
            None => vec![(delivery.new_sender.clone(), forwards)],
        };
        for (sender, recipients) in groups {
            let owned = sender != delivery.sender;
            let forward = Forward {
                sender,
                recipients,
                delivered_to: format!("{}@{}", delivery.local, delivery.host),
                recipient: expansion.request.recipients[expansion.position].index,
                owned,
                told: false,
            };
            self.around.forward(expansion.request, forward).await?;
        }
        Ok(())
    }

    fn qmail_box(&self, expansion: &Expansion<'_>, delivery: &Delivery<'_>, path: &str) -> Place {
        let mut locking = self.settings.locking.clone();
        if !locking.styles.contains(&Lock::Flock) {
            locking.styles.push(Lock::Flock);
        }
        let from_line = delivery.mailbox_line(&from_line(&expansion.request.sender, self.around.now()));
        Place::Mailbox {
            path: delivery.path(path),
            from_line,
            locking,
            limit: self.settings.mailbox_limit,
            strict_owner: false,
            trouble: "4.2.1".to_owned(),
        }
    }

    /// A command's place, with the environment that qmail-command(8) documents: what came from outside is in it as it
    /// came.
    fn program(&self, expansion: &Expansion<'_>, delivery: &Delivery<'_>, command: String) -> Place {
        let Delivery { owner, local, host, .. } = delivery;
        let mut environment = self.settings.environment.clone();
        // bouncesaying and its kin.
        if let Some((_, path)) = environment.iter_mut().find(|(name, _)| name == "PATH") {
            for directory in &self.settings.program_directories {
                if !path.split(':').any(|known| known == directory) {
                    path.push(':');
                    path.push_str(directory);
                }
            }
        }
        let mut put = |name: &str, value: &str| environment.push((name.to_owned(), value.replace('\0', "")));
        put("SENDER", delivery.sender);
        put("NEWSENDER", &delivery.new_sender);
        put("RECIPIENT", &format!("{local}@{host}"));
        put("USER", &owner.user.name);
        put("LOGNAME", &owner.user.name);
        put("HOME", &owner.user.home);
        put("SHELL", &owner.user.shell);
        put("LOCAL", local);
        put("HOST", host);
        let mut shorter = *host;
        for name in ["HOST2", "HOST3", "HOST4"] {
            shorter = shorter.rsplit_once('.').map_or(shorter, |(before, _)| before);
            put(name, shorter);
        }
        let mut rest = owner.extension.as_str();
        put("EXT", rest);
        for name in ["EXT2", "EXT3", "EXT4"] {
            rest = rest.split_once('-').map_or("", |(_, after)| after);
            put(name, rest);
        }
        if let Some(default) = &delivery.default {
            put("DEFAULT", default);
        }
        put("DTLINE", &delivery.delivered_to());
        put("RPLINE", &delivery.return_path());
        let from_line = delivery.mailbox_line(&from_line(&expansion.request.sender, self.around.now()));
        put("UFLINE", &format!("{from_line}\n"));
        Place::Command {
            // Through the shell whatever it looks like: built-in words and its errors are what users know.
            command,
            shell: "/bin/sh -c".to_owned(),
            argv: Vec::new(),
            environment,
            directory: owner.user.home.clone(),
            time_limit_s: self.settings.command_time_limit_s,
            form: Form::default(),
            exits: Exits::Qmail,
            agent: "local".to_owned(),
        }
    }
}

impl Delivery<'_> {
    fn return_path(&self) -> String {
        format!("Return-Path: <{}>\n", one_line(&quote(self.sender)))
    }

    fn delivered_to(&self) -> String {
        format!("Delivered-To: {}\n", one_line(&format!("{}@{}", self.local, self.host)))
    }

    /// Before a message in a mailbox.
    fn fields(&self) -> String {
        format!("{}{}", self.return_path(), self.delivered_to())
    }

    /// Ours with a single blank between sender and date, as qmail has it.
    fn mailbox_line(&self, ours: &str) -> String {
        let sender = if self.sender.is_empty() { "MAILER-DAEMON" } else { self.sender };
        // The date is that of ctime(3), 24 bytes.
        let date = ours.get(ours.len().saturating_sub(24)..).unwrap_or_default();
        format!("From {} {date}", sender.replace([' ', '\t', '\n'], "-"))
    }

    /// A path as it is seen from home.
    fn path(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.owner.user.home) }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], "_")
}

//! The end of the way: transport, command, maildir or mbox of a user; or what is done with nobody's mail.

use std::io;
use std::sync::Arc;

use yamabiko_address::split_domain;
use yamabiko_envelope::Outcome;
use yamabiko_lookup::Maps;
use yamabiko_status::EnhancedStatus;

use super::deliver::{Verdict, fields, from_line, is_probe};
use super::local::{Expansion, LocalAgent, Standing, expand, filtered};
use super::{As, User};
use crate::job::{Done, Exits, Form, Job, Place};

/// `transport:nexthop`
fn split_transport(value: &str) -> (&str, &str) {
    value.split_once(':').unwrap_or((value, ""))
}

/// Bytes of a message that is given to a worker before it is known whether a `.forward` wants it; to ask first costs less than to
/// send more than that for nothing.
const SENT_AT_ONCE: u64 = 64 << 10;

/// A user's mailbox or maildir.
struct Mailbox {
    place: Place,
    whose: As,
    kind: &'static str,
}

impl LocalAgent {
    pub(super) async fn to_mailbox(
        &self,
        expansion: &mut Expansion<'_>,
        address: &str,
        name: &str,
        extension: Option<&str>,
        user: Option<Arc<User>>,
        standing: &Standing,
    ) {
        match &user {
            Some(user) => {
                let user = Arc::clone(user);
                self.known(expansion, address, &user, extension).await;
            }
            None => self.unknown(expansion, address, name, extension, standing).await,
        }
    }

    async fn named(
        &self,
        expansion: &mut Expansion<'_>,
        maps: &Maps,
        name: &str,
        address: &str,
    ) -> Result<Option<String>, ()> {
        match maps.find(name).await {
            Ok(found) => Ok(found),
            Err(error) => {
                self.around.warn(error.to_string());
                self.end(expansion, Some(address), Verdict::trouble(format!("{} lookup failure", maps.title())));
                Err(())
            }
        }
    }

    async fn pass(&self, expansion: &mut Expansion<'_>, address: &str, transport: &str) {
        let (transport, nexthop) = split_transport(transport);
        let nexthop =
            if nexthop.is_empty() { split_domain(address).1.unwrap_or(&self.settings.myhostname) } else { nexthop };
        let outcomes = self.around.pass(expansion.request, expansion.position, address, transport, nexthop).await;
        let members = expansion.member();
        expansion.outcomes.extend(outcomes.into_iter().map(|one| Outcome { members: members.clone(), ..one }));
    }

    async fn known(&self, expansion: &mut Expansion<'_>, address: &str, user: &Arc<User>, extension: Option<&str>) {
        if self.settings.require_home_directory && !is_probe(expansion.request) {
            let whose = As::Login { name: user.name.clone(), spool: false };
            match self.around.work(whose, Job::Home { path: user.home.clone() }, None).await {
                Ok(Done::Text(None)) => {}
                other => return self.end(expansion, Some(address), Verdict::of(other, |_| String::new())),
            }
        }
        let transport = match self.named(expansion, &self.settings.mailbox_transport_maps, &user.name, address).await {
            Ok(found) => found.or_else(|| some(&self.settings.mailbox_transport)),
            Err(()) => return,
        };
        if let Some(transport) = transport {
            return self.pass(expansion, address, &transport).await;
        }
        let command = match self.named(expansion, &self.settings.mailbox_command_maps, &user.name, address).await {
            Ok(found) => found.or_else(|| some(&self.settings.mailbox_command)),
            Err(()) => return,
        };
        let Some(command) = command else {
            let to = self.box_of(expansion, user);
            if is_probe(expansion.request) {
                return self.end(expansion, Some(address), Verdict::sent(format!("delivers to {}", to.kind)));
            }
            let job = Job::Deliver { place: to.place.clone(), prepend: self.box_prefix(expansion) };
            let done = self.around.work(to.whose.clone(), job, Some(&expansion.request.content)).await;
            return self.boxed(expansion, address, user, &to, done);
        };
        if is_probe(expansion.request) {
            return self.end(expansion, Some(address), Verdict::sent(format!("delivers to command: {command}")));
        }
        let place = self.command_place(expansion, &command, address, Some(user));
        let _ = extension;
        let prepend = self.command_prefix(expansion);
        let whose = As::Login { name: user.name.clone(), spool: false };
        let job = Job::Deliver { place, prepend };
        let done = self.around.work(whose, job, Some(&expansion.request.content)).await;
        let verdict = Verdict::of(done, |_| format!("delivered to command: {command}"));
        self.end(expansion, Some(address), verdict);
    }

    /// Delivers to the user's mailbox, `member` of the list, where that is what becomes of mail that no `.forward` takes, and where none of
    /// `files` is there. False when nothing was done.
    pub(super) async fn to_box_unless(
        &self,
        expansion: &mut Expansion<'_>,
        address: &str,
        user: &Arc<User>,
        member: &str,
        files: &[String],
    ) -> bool {
        let settings = &self.settings;
        let elsewhere = settings.require_home_directory
            || !(settings.mailbox_transport.is_empty() && settings.mailbox_transport_maps.is_empty())
            || !(settings.mailbox_command.is_empty() && settings.mailbox_command_maps.is_empty());
        let large = expansion.request.content.len() > SENT_AT_ONCE;
        if elsewhere || large || is_probe(expansion.request) || !expansion.is_unclaimed(member) {
            return false;
        }
        let to = self.box_of(expansion, user);
        let prepend = self.box_prefix(expansion);
        let job = Job::DeliverUnless { files: files.to_vec(), place: to.place.clone(), prepend };
        let done = self.around.work(to.whose.clone(), job, Some(&expansion.request.content)).await;
        if matches!(done, Ok(Done::Withheld)) {
            return false;
        }
        expansion.claim(member.to_owned());
        self.boxed(expansion, address, user, &to, done);
        true
    }

    fn box_prefix(&self, expansion: &Expansion<'_>) -> String {
        let original = expansion.original().filter(|_| self.settings.original_recipient);
        fields(expansion.request, original, Some(&expansion.delivered_to))
    }

    /// Notes what a worker says of a mailbox.
    fn boxed(&self, expansion: &mut Expansion<'_>, address: &str, user: &User, to: &Mailbox, done: io::Result<Done>) {
        let mut verdict = Verdict::of(done, |_| format!("delivered to {}", to.kind));
        if let (true, Place::Mailbox { path, .. }) = (verdict.of_worker, &to.place) {
            verdict.reason = format!("cannot update mailbox {path} for user {}. {}", user.name, verdict.reason);
        }
        self.end(expansion, Some(address), verdict);
    }

    /// `home_mailbox`, or the user's file or maildir in the spool.
    fn box_of(&self, expansion: &Expansion<'_>, user: &User) -> Mailbox {
        let (path, spool) = if self.settings.home_mailbox.is_empty() {
            let directory = &self.settings.mail_spool_directory;
            let maildir = directory.ends_with('/');
            let slash = if maildir { "/" } else { "" };
            (format!("{}/{}{slash}", directory.trim_end_matches('/'), user.name), true)
        } else {
            (format!("{}/{}", user.home, self.settings.home_mailbox), false)
        };
        let whose = As::Login { name: user.name.clone(), spool };
        if path.ends_with('/') {
            let place = Place::Maildir { path, limit: self.settings.mailbox_limit, trouble: "4.2.0".to_owned() };
            return Mailbox { place, whose, kind: "maildir" };
        }
        let place = Place::Mailbox {
            path,
            from_line: from_line(&expansion.request.sender, self.around.now()),
            locking: self.settings.locking.clone(),
            limit: self.settings.mailbox_limit,
            strict_owner: self.settings.strict_owner,
            trouble: "4.2.0".to_owned(),
        };
        Mailbox { place, whose, kind: "mailbox" }
    }

    async fn unknown(
        &self,
        expansion: &mut Expansion<'_>,
        address: &str,
        name: &str,
        extension: Option<&str>,
        standing: &Standing,
    ) {
        let member = format!("unknown {name}");
        if expansion.is_settled(&member) {
            return;
        }
        // What `luser_relay` made of nobody's mail may be nobody's again.
        let first = expansion.claim(member);
        if !first && !expansion.outcomes.is_empty() {
            return;
        }
        let transport = match self.named(expansion, &self.settings.fallback_transport_maps, name, address).await {
            Ok(found) => found.or_else(|| some(&self.settings.fallback_transport)),
            Err(()) => return,
        };
        if let Some(transport) = transport {
            return self.pass(expansion, address, &transport).await;
        }
        let relay = first && !self.settings.luser_relay.is_empty();
        if relay && self.to_luser(expansion, address, name, extension, standing) {
            return;
        }
        if name == "mailer-daemon" || name == "postmaster" {
            self.around.warn(format!("required alias not found: {name}"));
            return self.end(expansion, Some(address), Verdict::sent("discarded"));
        }
        let verdict = Verdict::new(EnhancedStatus::permanent(1, 1), format!("unknown user: \"{name}\""));
        self.end(expansion, Some(address), verdict);
    }

    /// `luser_relay`: nobody's mail goes on to an address. False when it cannot be filled in.
    fn to_luser(
        &self,
        expansion: &mut Expansion<'_>,
        address: &str,
        name: &str,
        extension: Option<&str>,
        standing: &Standing,
    ) -> bool {
        let (local, domain) = split_domain(address);
        let filled = expand(&self.settings.luser_relay, &|variable| {
            let value = match variable {
                "user" => name.to_owned(),
                "local" => local.to_owned(),
                "domain" => domain.unwrap_or_default().to_owned(),
                "extension" => extension.unwrap_or_default().to_owned(),
                "recipient" => address.to_owned(),
                "recipient_delimiter" => self.settings.recipient_delimiter.clone(),
                "shell" | "home" => String::new(),
                _ => return None,
            };
            Some(filtered(&value, &self.settings.forward_filter))
        });
        let Some(filled) = filled else {
            self.around.warn(format!("luser_relay = {}: cannot be expanded", self.settings.luser_relay));
            return false;
        };
        self.relay_to(expansion, filled, name, standing);
        true
    }

    /// A command line's place, with the environment that local(8) documents.
    pub(super) fn command_place(
        &self,
        expansion: &Expansion<'_>,
        command: &str,
        address: &str,
        user: Option<&User>,
    ) -> Place {
        let (local, domain) = split_domain(address);
        let rules = yamabiko_address::ExtensionRules {
            delimiters: &self.settings.recipient_delimiter,
            owner_request_special: self.settings.owner_request_special,
            double_bounce_sender: "double-bounce",
        };
        let (base, extension) = yamabiko_address::split_extension_with(local, &rules);
        let envelope = &expansion.request.envelope;
        let client = &envelope.client;
        let mut pairs: Vec<(&str, String)> = Vec::new();
        if let Some(user) = user {
            pairs.push(("HOME", user.home.clone()));
            pairs.push(("SHELL", user.shell.clone()));
        }
        let login = user.map_or(base, |user| user.name.as_str());
        pairs.extend([("LOGNAME", login.to_owned()), ("USER", login.to_owned()), ("LOCAL", local.to_owned())]);
        pairs.extend([
            ("SENDER", expansion.request.sender.to_string()),
            ("RECIPIENT", address.to_owned()),
            ("ORIGINAL_RECIPIENT", expansion.original().unwrap_or_default().to_owned()),
        ]);
        pairs.extend(domain.map(|domain| ("DOMAIN", domain.to_owned())));
        pairs.extend(extension.map(|extension| ("EXTENSION", extension.to_owned())));
        if let Some(ip) = client.address {
            pairs.extend([
                ("CLIENT_ADDRESS", ip.to_string()),
                ("CLIENT_HELO", client.helo.clone()),
                ("CLIENT_HOSTNAME", client.name.clone()),
                ("CLIENT_PROTOCOL", client.protocol.clone()),
            ]);
        }
        if let Some(sasl) = &envelope.sasl {
            pairs.extend([
                ("SASL_METHOD", sasl.method.clone()),
                ("SASL_SENDER", sasl.sender.clone()),
                ("SASL_USERNAME", sasl.username.clone()),
            ]);
        }
        // What came from outside is filtered; what the system says of its users is not.
        let trusted = ["HOME", "SHELL"];
        let mut environment = self.settings.environment.clone();
        environment.extend(pairs.into_iter().map(|(name, value)| {
            let value = if trusted.contains(&name) { value } else { filtered(&value, &self.settings.command_filter) };
            (name.to_owned(), value)
        }));
        let directory = expand(&self.settings.command_directory, &|variable| {
            let value = match variable {
                "home" => user.map(|user| user.home.clone()).unwrap_or_default(),
                "shell" => user.map(|user| user.shell.clone()).unwrap_or_default(),
                "user" => login.to_owned(),
                "local" => local.to_owned(),
                "domain" => domain.unwrap_or_default().to_owned(),
                "recipient" => address.to_owned(),
                "extension" => extension.unwrap_or_default().to_owned(),
                "recipient_delimiter" => self.settings.recipient_delimiter.clone(),
                _ => return None,
            };
            Some(filtered(&value, &self.settings.directory_filter))
        });
        Place::Command {
            command: command.to_owned(),
            shell: self.settings.shell.clone(),
            argv: Vec::new(),
            environment,
            directory: directory.filter(|d| !d.is_empty()).unwrap_or_else(|| self.settings.queue_directory.clone()),
            time_limit_s: self.settings.command_time_limit_s,
            form: Form::default(),
            exits: Exits::Sysexits,
            agent: "local".to_owned(),
        }
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

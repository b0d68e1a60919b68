//! local(8): aliases, `.forward`, then the mailbox; one recipient may become many.
//!
//! A recipient's expansion is a list of work still to be done ([`Work`]) and what has come of it so far. Each piece of
//! work carries the [`Standing`] in which it is done: whose authority, which sender, what led here. The list is bounded;
//! what was done once is not done again (`duplicate_filter`, aliases in a circle), and that holds for later attempts too:
//! when a member of a list has to wait, the others are remembered with the recipient ([`Outcome::members`]).

use std::collections::HashSet;
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use yamabiko_address::domain::fold_case;
use yamabiko_address::{ExtensionRules, split_domain, split_extension_with, unquote};
use yamabiko_envelope::{Action, Attempt, DeliveryRequest, Outcome, RecipientState, Result as Ended};
use yamabiko_status::EnhancedStatus;

use super::deliver::{Trail, Verdict, fields, from_line, is_probe, outcome};
use super::list::{Element, elements, file_elements};
use super::qmail::{Style, Way};
use super::settings::{Allowed, Settings};
use super::{As, Forward, Surroundings, User};
use crate::job::{Done, Job, Place};

/// `.forward` and `:include:` files longer than this are a mistake.
pub(super) const FILE_LIMIT: u64 = 4 << 20;

/// Delivers to local users.
pub struct LocalAgent {
    pub(super) settings: Settings,
    pub(super) around: Arc<dyn Surroundings>,
}

/// What led to a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The recipient itself.
    Recipient,
    /// An alias value.
    Alias,
    /// Somebody's `.forward`.
    Forward,
    /// An `:include:` file.
    Include,
}

/// The standing in which a piece of work is done.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    origin: Origin,
    /// Alias or user whose list is being worked on: naming itself there means its own mailbox.
    from: Option<Arc<str>>,
    /// Who runs commands and writes files; `None` for the default.
    user: Option<Arc<User>>,
    /// Envelope sender of what goes on: the alias's owner.
    owner: Option<Arc<str>>,
    /// In whose name mail goes on: an alias's owner, the user whose `.forward` it is, the alias that includes a file. All
    /// users but this one get it as a new message (local(8): `msg_attr.owner`).
    forwarder: Option<Arc<str>>,
    /// The address whose list is worked on; `None` for the recipient's own.
    address: Option<Arc<str>>,
    /// For `Delivered-To:` of what comes of the list.
    delivered_to: Arc<str>,
    /// How many recipients deep.
    level: u32,
}

/// The sender has been told that the recipient is a list: a member that there is once.
const TOLD: &str = "told";

/// So many recipients deep a list leads in a circle.
const DEEPEST: u32 = 100;

/// Something still to be done for a recipient.
#[derive(Debug)]
pub(super) enum Work {
    /// A destination out of a list.
    Element(Element, Standing),
    /// All that a `.forward` says has been done.
    ForwardDone(String),
}

/// Addresses that go on in one message.
#[derive(Debug)]
struct Onward {
    /// Its sender, where that is not the message's.
    sender: Option<Arc<str>>,
    recipients: Vec<String>,
    delivered_to: String,
}

/// One recipient on its way through aliases and `.forward`.
pub(super) struct Expansion<'a> {
    pub(super) request: &'a DeliveryRequest,
    pub(super) position: usize,
    work: VecDeque<Work>,
    seen: HashSet<String>,
    /// Addresses that go on as new messages, with their sender.
    onward: Vec<Onward>,
    pub(super) outcomes: Vec<Outcome>,
    steps: usize,
    /// Members of the list that earlier attempts have settled.
    settled: HashSet<String>,
    /// What is noted next is about this member.
    member: Option<String>,
    /// For `Delivered-To:`.
    pub(super) delivered_to: String,
    /// The sender is told that this is a list.
    told: bool,
    /// Where the message has been.
    trail: Option<Trail>,
}

impl<'a> Expansion<'a> {
    fn new(request: &'a DeliveryRequest, position: usize) -> Self {
        let known = &request.recipients[position];
        let settled: HashSet<String> =
            match request.envelope.recipients.get(known.index as usize).map(|recipient| &recipient.state) {
                Some(RecipientState::Deferred(failure)) => failure.settled.iter().cloned().collect(),
                _ => HashSet::new(),
            };
        Self {
            request,
            position,
            work: VecDeque::new(),
            seen: HashSet::new(),
            onward: Vec::new(),
            outcomes: Vec::new(),
            steps: 0,
            told: settled.contains(TOLD),
            settled,
            member: None,
            delivered_to: fold_case(&known.address).into_owned(),
            trail: None,
        }
    }

    /// The recipient as it was given, for `X-Original-To:` and the environment; `None` for mail that was sent on in the
    /// name of an alias's owner.
    pub(super) fn original(&self) -> Option<&'a str> {
        let known = &self.request.recipients[self.position];
        let original = self.request.envelope.recipients.get(known.index as usize).map_or("", |r| r.original.as_str());
        (!original.is_empty()).then_some(original)
    }

    /// True where nothing has become of this member yet, now or at an earlier attempt. What is noted next is about it.
    pub(super) fn claim(&mut self, member: String) -> bool {
        if self.is_settled(&member) || !self.seen.insert(member.clone()) {
            return false;
        }
        self.member = Some(member);
        true
    }

    /// Whether [`Expansion::claim`] would say yes.
    pub(super) fn is_unclaimed(&self, member: &str) -> bool {
        !self.is_settled(member) && !self.seen.contains(member)
    }

    /// An earlier attempt has settled it.
    pub(super) fn is_settled(&self, member: &str) -> bool {
        self.settled.contains(member)
    }

    /// What is noted next is about this member.
    pub(super) fn member(&mut self) -> Vec<String> {
        self.member.take().into_iter().collect()
    }

    fn goes_on(&mut self, owner: &Option<Arc<str>>, address: String) {
        let same = |onward: &&mut Onward| onward.sender == *owner && onward.delivered_to == self.delivered_to;
        match self.onward.iter_mut().find(same) {
            Some(onward) => onward.recipients.push(address),
            None => self.onward.push(Onward {
                sender: owner.clone(),
                recipients: vec![address],
                delivered_to: self.delivered_to.clone(),
            }),
        }
    }
}

impl LocalAgent {
    /// With these settings.
    pub fn new(settings: Settings, around: Arc<dyn Surroundings>) -> Self {
        Self { settings, around }
    }

    /// Delivers to every recipient of the request.
    pub async fn deliver(&self, request: &DeliveryRequest) -> Attempt {
        let mut outcomes = Vec::with_capacity(request.recipients.len());
        for position in 0..request.recipients.len() {
            outcomes.append(&mut self.recipient(request, position).await);
        }
        Attempt { outcomes, destination_failure: None }
    }

    async fn recipient(&self, request: &DeliveryRequest, position: usize) -> Vec<Outcome> {
        let mut expansion = Expansion::new(request, position);
        let address = request.recipients[position].address.clone();
        match Trail::of(request) {
            Ok(trail) => expansion.trail = Some(trail),
            Err(error) => {
                self.end(&mut expansion, None, Verdict::trouble(format!("cannot read the message: {error}")));
                return expansion.outcomes;
            }
        }
        let standing = Standing {
            origin: Origin::Recipient,
            from: None,
            user: None,
            owner: None,
            forwarder: None,
            address: None,
            delivered_to: expansion.delivered_to.as_str().into(),
            level: 1,
        };
        expansion.work.push_back(Work::Element(Element::Address(address), standing));
        while let Some(work) = expansion.work.pop_front() {
            let (element, standing) = match work {
                Work::Element(element, standing) => (element, standing),
                Work::ForwardDone(path) => {
                    expansion.seen.insert(format!("forward-done {path}"));
                    continue;
                }
            };
            expansion.steps += 1;
            if expansion.steps > self.settings.expansion_limit {
                let name = standing.from.as_deref().unwrap_or_default();
                let reason = format!("possible alias database loop for {name}");
                self.end(&mut expansion, None, Verdict::new(EnhancedStatus::permanent(4, 6), reason));
                // One word for all that is left: a user's list must not fill the log.
                expansion.work.clear();
                break;
            }
            self.step(&mut expansion, element, standing).await;
        }
        if expansion.outcomes.iter().any(|outcome| outcome.result == Ended::Deferred) {
            // All of it is expanded again at the next attempt. What went on now would go on with every attempt
            // (Postfix: forward_finish with `cancel`).
            expansion.onward.clear();
        }
        self.send_on(&mut expansion).await;
        if expansion.outcomes.is_empty() {
            let verdict = match expansion.settled.is_empty() {
                // Nothing came of it, so nobody has the message.
                true => {
                    let name = split_domain(&request.recipients[position].address).0;
                    Verdict::new(EnhancedStatus::permanent(3, 5), format!("alias {name} expands to nothing"))
                }
                false => Verdict::sent("delivered to all others of the list before"),
            };
            self.end(&mut expansion, None, verdict);
        }
        expansion.outcomes
    }

    /// Notes what became of the recipient, or of an address it became.
    pub(super) fn end(&self, expansion: &mut Expansion<'_>, address: Option<&str>, verdict: Verdict) {
        let now = self.around.now();
        let done = outcome(expansion.request, expansion.position, address, verdict, &self.settings.transport, now);
        let members = expansion.member();
        expansion.outcomes.push(Outcome { members, ..done });
    }

    async fn step(&self, expansion: &mut Expansion<'_>, element: Element, standing: Standing) {
        expansion.member = None;
        expansion.delivered_to.clear();
        expansion.delivered_to.push_str(&standing.delivered_to);
        let restricted =
            |what: &str| Verdict::new(EnhancedStatus::permanent(7, 1), format!("mail to {what} is restricted"));
        match element {
            Element::Address(address) if standing.origin == Origin::Recipient => {
                self.to_user(expansion, address, standing).await;
            }
            Element::Address(address) => self.to_address(expansion, &address, standing).await,
            Element::Command(command) if self.permits(self.settings.commands, &standing) => {
                self.to_command(expansion, &command, &standing).await;
            }
            Element::Command(_) => self.end(expansion, standing.address.as_deref(), restricted("command")),
            Element::File(path) if self.permits(self.settings.files, &standing) => match path.strip_prefix('~') {
                Some(rest) => self.to_home(expansion, rest, &standing).await,
                None => self.to_file(expansion, &path, &standing).await,
            },
            Element::File(_) => self.end(expansion, standing.address.as_deref(), restricted("file")),
            Element::Include(path) => self.include(expansion, path, standing).await,
        }
    }

    /// `~/file`: below the home of whoever's list it is.
    async fn to_home(&self, expansion: &mut Expansion<'_>, rest: &str, standing: &Standing) {
        let home = standing.user.as_ref().map(|user| user.home.trim_end_matches('/'));
        match home.filter(|_| rest.starts_with('/')) {
            Some(home) => self.to_file(expansion, &format!("{home}{rest}"), standing).await,
            None => {
                let what = if home.is_some() { "bad home directory syntax for" } else { "unknown home directory for" };
                self.around.warn(format!("{what}: ~{rest}"));
                self.end(expansion, standing.address.as_deref(), misconfigured());
            }
        }
    }

    fn permits(&self, allowed: Allowed, standing: &Standing) -> bool {
        match standing.origin {
            Origin::Recipient | Origin::Alias => allowed.alias,
            Origin::Forward => allowed.forward,
            Origin::Include => allowed.include,
        }
    }

    /// An address out of a list: another user of ours, or mail that goes on.
    async fn to_address(&self, expansion: &mut Expansion<'_>, address: &str, standing: Standing) {
        // `\user`: the mailbox itself, whatever aliases and .forward say.
        let (bare, literal) = match address.strip_prefix('\\') {
            Some(rest) => (rest, true),
            None => (address, false),
        };
        let destination = match self.around.route(bare).await {
            Ok(destination) => destination,
            Err(why) => return self.end(expansion, Some(bare), Verdict::trouble(why)),
        };
        if destination.transport == self.settings.transport {
            let next = if literal { format!("\\{}", destination.address) } else { destination.address };
            self.to_user(expansion, next, standing).await;
            return;
        }
        self.goes_on(expansion, destination.address, &standing);
    }

    /// Once each, as a new message.
    fn goes_on(&self, expansion: &mut Expansion<'_>, address: String, standing: &Standing) {
        if expansion.claim(going_on(&address)) {
            // It is settled with all others of its message.
            expansion.member = None;
            expansion.goes_on(&standing.owner, address);
        }
    }

    /// A local part of ours: alias, then `.forward`, then mailbox.
    async fn to_user(&self, expansion: &mut Expansion<'_>, address: String, standing: Standing) {
        let (address, literal) = match address.strip_prefix('\\') {
            Some(rest) => (rest.to_owned(), true),
            None => (address, false),
        };
        let standing = Standing { level: standing.level + 1, ..standing };
        if !expansion.seen.insert(format!("recipient {} {literal} {}", standing.level, fold_case(&address))) {
            return;
        }
        // Not for a mailbox that is named as such: it ends there.
        if !literal && expansion.trail.as_ref().is_some_and(|trail| trail.has(&address)) {
            let reason = format!("mail forwarding loop for {address}");
            return self.end(expansion, Some(&address), Verdict::new(EnhancedStatus::permanent(4, 6), reason));
        }
        let (local, _) = split_domain(&address);
        let rules = ExtensionRules {
            delimiters: &self.settings.recipient_delimiter,
            owner_request_special: self.settings.owner_request_special,
            double_bounce_sender: "double-bounce",
        };
        let (name, extension) = split_extension_with(local, &rules);
        let (local, name): (String, String) = (fold_case(local).into_owned(), fold_case(name).into_owned());
        let extension = extension.map(str::to_owned);
        if !literal {
            match self.alias(expansion, &address, (&local, &name), extension.as_deref(), &standing).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(why) => return self.end(expansion, Some(&address), Verdict::trouble(why)),
            }
            let somebody_else =
                standing.forwarder.as_ref().is_some_and(|forwarder| !forwarder.eq_ignore_ascii_case(&name));
            if somebody_else || standing.origin == Origin::Include {
                return self.goes_on(expansion, address, &standing);
            }
        }
        if !self.settings.frozen_delivered_to {
            expansion.delivered_to = fold_case(&address).into_owned();
        }
        if !literal && self.settings.style != Style::Postfix {
            match self.dot_qmail(expansion, &address).await {
                Way::None => {}
                Way::Done => return,
                Way::Mailbox(user) => {
                    if expansion.claim(format!("box {}", user.name)) {
                        let name = user.name.clone();
                        self.to_mailbox(expansion, &address, &name, None, Some(user), &standing).await;
                    }
                    return;
                }
            }
        }
        let user = match self.around.user(&name) {
            Ok(user) => user,
            Err(why) => {
                let verdict = Verdict::trouble(format!("user lookup error: {why}"));
                return self.end(expansion, Some(&address), verdict);
            }
        };
        let member = format!("box {name}");
        if let (Some(user), false) = (&user, literal || self.settings.style == Style::Qmail) {
            let files = self.forward_files(&address, user, extension.as_deref());
            // Whoever is named by his own `.forward` has one.
            let at_once = standing.origin != Origin::Forward && !files.is_empty();
            if at_once && self.to_box_unless(expansion, &address, user, &member, &files).await {
                return;
            }
            if self.dot_forward(expansion, &address, user, extension.as_deref(), &standing, files).await {
                return;
            }
        }
        if user.is_some() && !expansion.claim(member) {
            return;
        }
        self.to_mailbox(expansion, &address, &name, extension.as_deref(), user, &standing).await;
    }

    /// Looks the name up in the aliases and puts what is found on the list. False when there is no such alias.
    async fn alias(
        &self,
        expansion: &mut Expansion<'_>,
        address: &str,
        (local, name): (&str, &str),
        extension: Option<&str>,
        standing: &Standing,
    ) -> Result<bool, String> {
        let maps = &self.settings.alias_maps;
        let names: &[&str] = if extension.is_some() { &[local, name] } else { &[local] };
        for key in names {
            // An alias that lists its own name means the user of that name.
            if standing.from.as_deref() == Some(*key) {
                continue;
            }
            if standing.level > DEEPEST {
                let reason = format!("alias database loop for {key}");
                self.around.warn(reason.clone());
                self.end(expansion, Some(address), Verdict::new(EnhancedStatus::permanent(4, 6), reason));
                return Ok(true);
            }
            let hit = match maps.find_hit(key).await {
                Ok(Some(hit)) => hit,
                Ok(None) => continue,
                Err(error) => {
                    self.around.warn(error.to_string());
                    return Err("alias database unavailable".to_owned());
                }
            };
            let user = self.alias_user(hit.table.name())?;
            let inherited = |from: &Option<Arc<str>>| from.clone().filter(|_| !self.settings.reset_owner_alias);
            let own: Option<Arc<str>> = self.owner_of(key).await?.map(Arc::from);
            let inner = Standing {
                origin: Origin::Alias,
                from: Some(Arc::from(*key)),
                user,
                owner: own.clone().or_else(|| inherited(&standing.owner)),
                forwarder: own.or_else(|| inherited(&standing.forwarder)),
                ..self.list_of(address, standing)
            };
            let unmatched = extension.filter(|_| *key == name && *key != local && self.settings.propagate.alias);
            self.enlist(expansion, elements(&hit.value), &inner, unmatched);
            self.tell_expanded(expansion);
            return Ok(true);
        }
        Ok(false)
    }

    /// The standing of a list that belongs to this address.
    fn list_of(&self, address: &str, standing: &Standing) -> Standing {
        let delivered_to = match self.settings.frozen_delivered_to {
            true => Arc::clone(&standing.delivered_to),
            false => fold_case(address).into(),
        };
        Standing { address: Some(address.into()), delivered_to, ..standing.clone() }
    }

    /// Who asked to hear of success hears that the recipient is a list, once, and nothing of its members.
    fn tell_expanded(&self, expansion: &mut Expansion<'_>) {
        let index = expansion.request.recipients[expansion.position].index as usize;
        let asked = expansion.request.envelope.recipients.get(index).is_some_and(|r| r.notify.wants_success());
        if asked && !expansion.told {
            expansion.told = true;
            expansion.member = Some(TOLD.to_owned());
            let mut verdict = Verdict::sent("alias expanded");
            verdict.action = Action::Expanded;
            self.end(expansion, None, verdict);
            if let Some(outcome) = expansion.outcomes.last_mut() {
                outcome.logged = true;
            }
        }
    }

    /// The user whose alias table this is runs what it says; root's tables are run by `default_privs`.
    fn alias_user(&self, table: &str) -> Result<Option<Arc<User>>, String> {
        Settings::table_file(table).map_or(Ok(None), |file| self.owner_of_file(file))
    }

    /// `None` for root's, and for what cannot be seen from here.
    fn owner_of_file(&self, file: impl AsRef<std::path::Path>) -> Result<Option<Arc<User>>, String> {
        let uid = std::fs::metadata(&file).map(|metadata| metadata.uid()).unwrap_or(0);
        if uid == 0 {
            return Ok(None);
        }
        match self.around.user_name(uid)? {
            Some(name) => self.around.user(&name),
            None => Err(format!("{}: its owner {uid} is no user of this system", file.as_ref().display())),
        }
    }

    /// `owner-NAME`: errors of what goes on from `NAME` are its affair.
    async fn owner_of(&self, name: &str) -> Result<Option<String>, String> {
        if name.get(..6).is_some_and(|head| head.eq_ignore_ascii_case("owner-")) {
            return Ok(None);
        }
        let owner = format!("owner-{name}");
        let found = self.settings.alias_maps.find(&owner).await.map_err(|error| {
            self.around.warn(error.to_string());
            "alias database unavailable".to_owned()
        })?;
        let Some(value) = found else { return Ok(None) };
        if self.settings.expand_owner_alias
            && let [Element::Address(one)] = elements(&value).as_slice()
        {
            return self.around.route(one).await.map(|destination| Some(destination.address));
        }
        self.around.route(&owner).await.map(|destination| Some(destination.address))
    }

    fn enlist(&self, expansion: &mut Expansion<'_>, list: Vec<Element>, standing: &Standing, unmatched: Option<&str>) {
        let mut list = list;
        // What is beyond the limit is never worked on; one more says that there was more.
        list.truncate(self.settings.expansion_limit.saturating_sub(expansion.steps) + 1);
        // In front, in order: deliveries happen in the order in which lists are written.
        for element in list.into_iter().rev() {
            let element = match (element, unmatched, self.settings.recipient_delimiter.chars().next()) {
                (Element::Address(address), Some(extension), Some(delimiter)) => {
                    Element::Address(yamabiko_address::join_extension(&address, &format!("{delimiter}{extension}")))
                }
                (element, _, _) => element,
            };
            expansion.work.push_front(Work::Element(element, standing.clone()));
        }
    }

    /// Puts the address that `luser_relay` says on the list: never a command or a file, whatever a sender made of the name.
    pub(super) fn relay_to(&self, expansion: &mut Expansion<'_>, address: String, name: &str, standing: &Standing) {
        let inner = Standing { origin: Origin::Alias, from: Some(Arc::from(name)), user: None, ..standing.clone() };
        expansion.work.push_front(Work::Element(Element::Address(unquote(&address).into_owned()), inner));
    }

    /// Where a user's `.forward` may be.
    fn forward_files(&self, address: &str, user: &User, extension: Option<&str>) -> Vec<String> {
        let paths = self.settings.forward_path.iter();
        paths.filter_map(|path| self.expand_path(path, address, user, extension)).collect()
    }

    /// Reads the user's `.forward`. False when there is none, or when there is nothing in it.
    async fn dot_forward(
        &self,
        expansion: &mut Expansion<'_>,
        address: &str,
        user: &Arc<User>,
        extension: Option<&str>,
        standing: &Standing,
        paths: Vec<String>,
    ) -> bool {
        if paths.is_empty() {
            return false;
        }
        let whose = As::Login { name: user.name.clone(), spool: false };
        let done = self.around.work(whose, Job::Forward { paths, limit: FILE_LIMIT }, None).await;
        let (text, path) = match done {
            Ok(Done::Text(Some(found))) => found,
            Ok(Done::Text(None)) => return false,
            Ok(Done::Unsafe(warnings)) => {
                warnings.into_iter().for_each(|warning| self.around.warn(warning));
                return false;
            }
            other => {
                self.end(expansion, Some(address), Verdict::of(other, |_| String::new()));
                return true;
            }
        };
        // Who names himself in his own .forward means the mailbox; who comes by again has his mail already.
        if !expansion.seen.insert(format!("forward {path}")) {
            return expansion.seen.contains(&format!("forward-done {path}"));
        }
        let list = file_elements(&text);
        if list.is_empty() {
            return false;
        }
        let named_extension = extension.is_some_and(|extension| path.ends_with(extension));
        let local = fold_case(split_domain(address).0).into_owned();
        let inner = Standing {
            origin: Origin::Forward,
            from: Some(local.into()),
            user: Some(Arc::clone(user)),
            forwarder: Some(user.name.as_str().into()),
            ..self.list_of(address, standing)
        };
        let unmatched = extension.filter(|_| !named_extension && self.settings.propagate.forward);
        expansion.work.push_front(Work::ForwardDone(path));
        self.enlist(expansion, list, &inner, unmatched);
        true
    }

    /// One entry of `forward_path` for a user; `None` where it needs something that there is not (an extension).
    fn expand_path(&self, path: &str, address: &str, user: &User, extension: Option<&str>) -> Option<String> {
        let (local, domain) = split_domain(address);
        // The delimiter that this address has, of those that there can be.
        let delimiter =
            extension.and_then(|extension| local.strip_suffix(extension)).and_then(|head| head.chars().last());
        expand(path, &|name| {
            let value = match name {
                "home" => user.home.clone(),
                "user" => user.name.clone(),
                "shell" => user.shell.clone(),
                "local" => local.to_owned(),
                "recipient" => address.to_owned(),
                "domain" => domain.unwrap_or_default().to_owned(),
                "extension" => extension?.to_owned(),
                "recipient_delimiter" => delimiter?.to_string(),
                _ => return None,
            };
            Some(filtered(&value, &self.settings.forward_filter))
        })
        // A user with a strange name does not get to leave the directory that the path names.
        .filter(|expanded| !expanded.contains("/../"))
    }

    async fn include(&self, expansion: &mut Expansion<'_>, path: String, standing: Standing) {
        let address = standing.address.clone();
        let address = address.as_deref();
        if !path.starts_with('/') {
            self.around.warn(format!(":include:{path} uses a relative path"));
            return self.end(expansion, address, misconfigured());
        }
        let whose = standing.user.as_ref().map_or("", |user| &user.name);
        if !expansion.seen.insert(format!("include {whose} {path}")) {
            return;
        }
        // A user's file in an alias of root's: what it says is done with the user's rights, not with those of all.
        let user = match &standing.user {
            Some(user) => Some(Arc::clone(user)),
            None => match self.owner_of_file(&path) {
                Ok(user) => user,
                Err(why) => return self.end(expansion, address, Verdict::trouble(why)),
            },
        };
        let whose = &expansion.request.recipients[expansion.position].address;
        let forwarder = standing.forwarder.clone().unwrap_or_else(|| address.unwrap_or(whose).into());
        let inner = Standing { origin: Origin::Include, user, forwarder: Some(forwarder), ..standing.clone() };
        match self.around.work(self.authority(&inner), Job::Include { path, limit: FILE_LIMIT }, None).await {
            Ok(Done::Text(Some((text, _)))) => self.enlist(expansion, file_elements(&text), &inner, None),
            Ok(Done::Failed { status, reason, .. }) if status.starts_with('5') => {
                // The names of our files are nothing for the sender.
                self.around.warn(reason);
                self.end(expansion, address, misconfigured());
            }
            other => self.end(expansion, address, Verdict::of(other, |_| String::new())),
        }
    }

    /// Who acts for this standing: the user whose list it is, or `default_privs`.
    pub(super) fn authority(&self, standing: &Standing) -> As {
        let name = standing.user.as_ref().map_or(self.settings.default_privs.as_str(), |user| user.name.as_str());
        As::Login { name: name.to_owned(), spool: false }
    }

    async fn to_command(&self, expansion: &mut Expansion<'_>, command: &str, standing: &Standing) {
        let user = standing.user.clone();
        let name = user.as_ref().map_or(self.settings.default_privs.as_str(), |user| user.name.as_str());
        if !expansion.claim(format!("command {name} {command}")) {
            return;
        }
        let address = standing.address.as_deref();
        if is_probe(expansion.request) {
            return self.end(expansion, address, Verdict::sent(format!("delivers to command: {command}")));
        }
        let whose = address.unwrap_or(&expansion.request.recipients[expansion.position].address);
        let known = match (standing.origin, &user) {
            (Origin::Forward, Some(user)) => Some(Arc::clone(user)),
            _ => None,
        };
        let place = self.command_place(expansion, command, whose, known.as_deref());
        let prepend = self.command_prefix(expansion);
        let done = self
            .around
            .work(self.authority(standing), Job::Deliver { place, prepend }, Some(&expansion.request.content))
            .await;
        let verdict = Verdict::of(done, |_| format!("delivered to command: {command}"));
        self.end(expansion, address, verdict);
    }

    /// `From ` line and fields before a message that a command reads.
    pub(super) fn command_prefix(&self, expansion: &Expansion<'_>) -> String {
        let delivered = self.settings.delivered_to.command.then_some(expansion.delivered_to.as_str());
        let original = expansion.original().filter(|_| self.settings.original_recipient);
        let mut prefix = from_line(&expansion.request.sender, self.around.now());
        prefix.push('\n');
        prefix.push_str(&fields(expansion.request, original, delivered));
        prefix
    }

    async fn to_file(&self, expansion: &mut Expansion<'_>, path: &str, standing: &Standing) {
        if !expansion.claim(format!("file {path}")) {
            return;
        }
        let delivered = self.settings.delivered_to.file.then_some(expansion.delivered_to.as_str());
        let original = expansion.original().filter(|_| self.settings.original_recipient);
        let prepend = fields(expansion.request, original, delivered);
        let (place, kind) = if path.ends_with('/') {
            (
                Place::Maildir {
                    path: path.to_owned(),
                    limit: self.settings.mailbox_limit,
                    trouble: "5.2.0".to_owned(),
                },
                "maildir".to_owned(),
            )
        } else {
            let place = Place::Mailbox {
                path: path.to_owned(),
                from_line: from_line(&expansion.request.sender, self.around.now()),
                locking: self.settings.locking.clone(),
                limit: self.settings.mailbox_limit,
                strict_owner: false,
                trouble: "5.2.0".to_owned(),
            };
            (place, format!("file: {path}"))
        };
        if is_probe(expansion.request) {
            return self.end(expansion, standing.address.as_deref(), Verdict::sent(format!("delivers to {kind}")));
        }
        let job = Job::Deliver { place, prepend };
        let done = self.around.work(self.authority(standing), job, Some(&expansion.request.content)).await;
        let mut verdict = Verdict::of(done, |_| format!("delivered to {kind}"));
        if verdict.of_worker && !path.ends_with('/') {
            verdict.reason = format!("cannot append message to file {path}: {}", verdict.reason);
        }
        self.end(expansion, standing.address.as_deref(), verdict);
    }

    /// What goes on as new messages: one for each sender.
    async fn send_on(&self, expansion: &mut Expansion<'_>) {
        for Onward { sender: owner, recipients, delivered_to } in std::mem::take(&mut expansion.onward) {
            if is_probe(expansion.request) {
                for address in recipients {
                    let verdict = Verdict::sent(format!("forwards to {}", yamabiko_address::quote(&address)));
                    self.end(expansion, Some(&address), verdict);
                }
                continue;
            }
            let members = recipients.iter().map(|address| going_on(address)).collect();
            let forward = Forward {
                sender: owner.as_deref().map_or_else(|| expansion.request.sender.to_string(), str::to_owned),
                recipients,
                delivered_to: if self.settings.delivered_to.forward { delivered_to } else { String::new() },
                recipient: expansion.request.recipients[expansion.position].index,
                owned: owner.is_some(),
                told: expansion.told,
            };
            let verdict = match self.around.forward(expansion.request, forward).await {
                Ok(queue_id) => {
                    let mut verdict = Verdict::sent(format!("forwarded as {queue_id}"));
                    // What was asked for goes on with it, unless the list's owner stands in between.
                    verdict.action = if owner.is_some() { Action::Delivered } else { Action::HandedOn };
                    verdict
                }
                Err(why) => Verdict::trouble(why),
            };
            self.end(expansion, None, verdict);
            if let Some(outcome) = expansion.outcomes.last_mut() {
                outcome.members = members;
            }
        }
    }
}

/// The member of a list that gets a new message.
fn going_on(address: &str) -> String {
    format!("on {}", fold_case(address))
}

fn misconfigured() -> Verdict {
    Verdict::new(EnhancedStatus::permanent(3, 5), "mail system configuration error")
}

/// Fills `$name`, `${name}` and `$(name)`; `None` as soon as one has no value.
pub(super) fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let close = match rest.chars().next() {
            Some('{') => Some('}'),
            Some('(') => Some(')'),
            _ => None,
        };
        let (name, after) = match close {
            Some(close) => {
                let end = rest.find(close)?;
                (&rest[1..end], &rest[end + 1..])
            }
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (&rest[..end], &rest[end..])
            }
        };
        // `${name?text}` and `${name:text}`, as luser_relay and forward_path use them.
        let filled = match name.find(['?', ':']) {
            Some(mark) => {
                let found = value(&name[..mark]).filter(|v| !v.is_empty());
                let branch = name[mark + 1..].trim_start_matches('{').trim_end_matches('}');
                match (&name[mark..=mark], found) {
                    ("?", Some(_)) | (":", None) => expand(branch, value)?,
                    _ => String::new(),
                }
            }
            None => value(name)?,
        };
        out.push_str(&filled);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// Characters outside the filter become `_` (`forward_expansion_filter`, `command_expansion_filter`).
pub(super) fn filtered(value: &str, filter: &str) -> String {
    value.chars().map(|c| if filter.contains(c) { c } else { '_' }).collect()
}

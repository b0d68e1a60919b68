//! pipe(8): a command of the administrator's for messages of a transport, as a user that master.cf names.

use std::sync::Arc;

use yamabiko_address::domain::fold_case;
use yamabiko_address::{quote, split_extension};
use yamabiko_config::{PipeService, Service, View};
use yamabiko_envelope::{Action, Attempt, DeliveryRequest};
use yamabiko_status::EnhancedStatus;

use super::deliver::{Trail, Verdict, from_line, is_probe, outcome};
use super::settings::exported;
use super::{As, Surroundings};
use crate::job::{Exits, Form, Job, Place};

/// What the configuration says about a pipe service.
pub struct PipeSettings {
    service: PipeService,
    environment: Vec<(String, String)>,
    time_limit_s: u64,
    queue_directory: String,
    recipient_delimiter: String,
    original_recipient: bool,
    myorigin: String,
    transport: String,
    /// Where the service is written.
    place: String,
}

impl PipeSettings {
    /// For a service of master.cf, by its view of the configuration. The error is a sentence with the place.
    ///
    /// # Errors
    /// The attributes of the service cannot be used, or its command names a macro that there is not.
    pub fn from_view(view: &View, service: &Service) -> Result<Self, String> {
        let settings = Self {
            service: PipeService::of(service)?,
            environment: exported(view),
            time_limit_s: view.transport_duration(&service.name, "time_limit").as_secs(),
            queue_directory: view.text("queue_directory"),
            recipient_delimiter: view.text("recipient_delimiter"),
            original_recipient: view.bool("enable_original_recipient"),
            myorigin: view.text("myorigin"),
            transport: service.name.clone(),
            place: service.place.to_string(),
        };
        for word in &settings.service.argv {
            pieces(word).map_err(|why| format!("{}: service {}: {why}", settings.place, settings.transport))?;
        }
        Ok(settings)
    }

    /// `D` and `O` write one recipient's address into the message: a command has one recipient then.
    pub fn takes_one_recipient(&self) -> bool {
        self.service.has('D') || self.service.has('O')
    }
}

/// Runs the command of a pipe service.
pub struct PipeAgent {
    settings: PipeSettings,
    around: Arc<dyn Surroundings>,
}

/// A recipient of one run of the command.
struct To<'a> {
    address: &'a str,
    original: &'a str,
}

impl PipeAgent {
    /// With these settings.
    pub fn new(settings: PipeSettings, around: Arc<dyn Surroundings>) -> Self {
        Self { settings, around }
    }

    /// Delivers to every recipient of the request: with one command, or with one for each.
    pub async fn deliver(&self, request: &DeliveryRequest) -> Attempt {
        let mut outcomes = Vec::with_capacity(request.recipients.len());
        let all: Vec<usize> = (0..request.recipients.len()).collect();
        let together = if self.settings.takes_one_recipient() { 1 } else { all.len().max(1) };
        for positions in all.chunks(together) {
            let verdict = self.run(request, positions).await;
            for position in positions {
                let now = self.around.now();
                outcomes.push(outcome(request, *position, None, verdict.clone(), &self.settings.transport, now));
            }
        }
        Attempt { outcomes, destination_failure: None }
    }

    async fn run(&self, request: &DeliveryRequest, positions: &[usize]) -> Verdict {
        let service = &self.settings.service;
        if service.size > 0 && request.content.len() > service.size {
            return Verdict::new(EnhancedStatus::permanent(2, 3), "message too large");
        }
        let program = service.argv.first().map_or("", String::as_str);
        if is_probe(request) {
            return Verdict::sent(format!("delivers to command: {program}"));
        }
        let recipients: Vec<To<'_>> = positions.iter().map(|position| to(request, *position)).collect();
        if service.has('D')
            && let Some(recipient) = recipients.first()
        {
            match Trail::of(request).map(|trail| trail.has(recipient.address)) {
                Ok(false) => {}
                Ok(true) => {
                    let reason = format!("mail forwarding loop for {}", recipient.address);
                    return Verdict::new(EnhancedStatus::permanent(4, 6), reason);
                }
                Err(error) => return Verdict::trouble(format!("cannot read the message: {error}")),
            }
        }
        let argv = match self.arguments(request, &recipients) {
            Ok(argv) => argv,
            Err(why) => {
                self.around.warn(format!("{}: service {}: {why}", self.settings.place, self.settings.transport));
                return Verdict::new(EnhancedStatus::transient(3, 5), "mail system configuration error");
            }
        };
        let directory = match (service.directory.as_str(), service.chroot.as_str()) {
            ("", "") => self.settings.queue_directory.clone(),
            ("", _) => "/".to_owned(),
            (directory, _) => directory.to_owned(),
        };
        let place = Place::Command {
            command: String::new(),
            shell: String::new(),
            argv,
            environment: self.settings.environment.clone(),
            directory,
            time_limit_s: self.settings.time_limit_s,
            form: Form {
                eol: service.eol.clone(),
                dot: service.has('.'),
                from: service.has('>'),
                blank: service.has('B'),
            },
            exits: Exits::Sysexits,
            agent: "pipe".to_owned(),
        };
        let job = Job::Deliver { place, prepend: self.fields(request, recipients.first()) };
        let whose = As::Service {
            name: self.settings.transport.clone(),
            user: service.user_and_group(),
            chroot: service.chroot.clone(),
        };
        let done = self.around.work(whose, job, Some(&request.content)).await;
        let name = &self.settings.transport;
        if let Err(error) = &done {
            self.around.warn(format!("transport {name}: {error}"));
            return Verdict::trouble("mail transport unavailable");
        }
        let mut verdict = Verdict::of(done, |output| match output {
            "" => format!("delivered via {name} service"),
            output => format!("delivered via {name} service ({output})"),
        });
        verdict.action = if service.has('X') { Action::Delivered } else { Action::Relayed };
        verdict
    }

    /// The sender as the command sees it.
    fn sender<'a>(&'a self, request: &'a DeliveryRequest) -> &'a str {
        if request.sender.is_empty() { &self.settings.service.null_sender } else { &request.sender }
    }

    /// What `flags=` wants before the message.
    fn fields(&self, request: &DeliveryRequest, recipient: Option<&To<'_>>) -> String {
        let service = &self.settings.service;
        let sender = self.sender(request);
        let mut text = String::new();
        if service.has('F') {
            text.push_str(&from_line(sender, self.around.now()));
            text.push('\n');
        }
        if service.has('R') {
            text.push_str(&format!("Return-Path: <{}>\n", quote(sender)));
        }
        if let Some(recipient) = recipient {
            if service.has('O') && self.settings.original_recipient && !recipient.original.is_empty() {
                text.push_str(&format!("X-Original-To: {}\n", quote(recipient.original)));
            }
            if service.has('D') {
                text.push_str(&format!("Delivered-To: {}\n", quote(recipient.address)));
            }
        }
        text
    }

    /// `argv=` with everything filled in. An argument that names something of the recipient's is there once for each.
    fn arguments(&self, request: &DeliveryRequest, recipients: &[To<'_>]) -> Result<Vec<String>, String> {
        let mut all = Vec::with_capacity(self.settings.service.argv.len());
        for word in &self.settings.service.argv {
            let pieces = pieces(word)?;
            if !pieces.iter().any(|piece| matches!(piece, Piece::Macro(name) if OF_RECIPIENT.contains(name))) {
                all.push(self.filled(&pieces, request, None).unwrap_or_default());
                continue;
            }
            all.extend(recipients.iter().filter_map(|recipient| self.filled(&pieces, request, Some(recipient))));
        }
        Ok(all)
    }

    /// `None` where `$user` is empty: such an argument is left out (as for `+folder@domain`, a mailbox of everybody's).
    fn filled(&self, pieces: &[Piece<'_>], request: &DeliveryRequest, recipient: Option<&To<'_>>) -> Option<String> {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Macro("user") => {
                    let user = self.of_recipient("user", recipient?);
                    if user.is_empty() {
                        return None;
                    }
                    text.push_str(&user);
                }
                Piece::Macro(name) if OF_RECIPIENT.contains(name) => {
                    text.push_str(&self.of_recipient(name, recipient?));
                }
                Piece::Macro(name) => text.push_str(&self.of_message(name, request)),
            }
        }
        Some(text)
    }

    fn of_recipient(&self, name: &str, recipient: &To<'_>) -> String {
        if name == "original_recipient" {
            return self.morphed(recipient.original, true);
        }
        if name == "recipient" {
            return self.morphed(recipient.address, true);
        }
        let address = self.morphed(recipient.address, false);
        // An address without a domain has not come so far.
        let (mailbox, domain) = address.rsplit_once('@').unwrap_or((&address, &self.settings.myorigin));
        let (user, extension) = split_extension(mailbox, &self.settings.recipient_delimiter);
        match name {
            "mailbox" => mailbox.to_owned(),
            "domain" => domain.to_owned(),
            "user" => user.to_owned(),
            _ => extension.unwrap_or_default().to_owned(),
        }
    }

    /// By `q`, `u` and `h`.
    fn morphed(&self, address: &str, may_quote: bool) -> String {
        let service = &self.settings.service;
        let quoted = if may_quote && service.has('q') { quote(address) } else { address.into() };
        let Some((local, domain)) = quoted.rsplit_once('@') else {
            return if service.has('u') { fold_case(&quoted).into_owned() } else { quoted.into_owned() };
        };
        let local = if service.has('u') { fold_case(local) } else { local.into() };
        let domain = if service.has('h') { fold_case(domain) } else { domain.into() };
        format!("{local}@{domain}")
    }

    fn of_message(&self, name: &str, request: &DeliveryRequest) -> String {
        let envelope = &request.envelope;
        let client = &envelope.client;
        let sasl = |part: fn(&yamabiko_envelope::SaslIdentity) -> &String| {
            envelope.sasl.as_ref().map(part).cloned().unwrap_or_default()
        };
        match name {
            "sender" => {
                let sender = self.sender(request);
                if self.settings.service.has('q') && !sender.is_empty() {
                    quote(sender).into_owned()
                } else {
                    sender.to_owned()
                }
            }
            "nexthop" if self.settings.service.has('h') => fold_case(&request.nexthop).into_owned(),
            "nexthop" => request.nexthop.to_string(),
            "size" => request.content.len().to_string(),
            "queue_id" => envelope.queue_id.to_string(),
            "envid" => envelope.envid.clone(),
            "client_address" => client.address.map(|address| address.to_string()).unwrap_or_default(),
            "client_helo" => client.helo.clone(),
            "client_hostname" => client.name.clone(),
            "client_port" if client.port != 0 => client.port.to_string(),
            "client_protocol" => client.protocol.clone(),
            "sasl_method" => sasl(|sasl| &sasl.method),
            "sasl_sender" => sasl(|sasl| &sasl.sender),
            "sasl_username" => sasl(|sasl| &sasl.username),
            _ => String::new(),
        }
    }
}

/// A recipient of the request and what it was before it was rewritten.
fn to(request: &DeliveryRequest, position: usize) -> To<'_> {
    // Positions are those of the request; the index was made from this envelope.
    let known = &request.recipients[position];
    let original = request.envelope.recipients.get(known.index as usize).map_or("", |r| r.original.as_str());
    To { address: &known.address, original: if original.is_empty() { &known.address } else { original } }
}

/// Macros that are another for every recipient.
const OF_RECIPIENT: [&str; 6] = ["recipient", "original_recipient", "user", "extension", "mailbox", "domain"];
/// Macros that are the same for all.
const OF_MESSAGE: [&str; 13] = [
    "sender",
    "nexthop",
    "size",
    "queue_id",
    "envid",
    "client_address",
    "client_helo",
    "client_hostname",
    "client_port",
    "client_protocol",
    "sasl_method",
    "sasl_sender",
    "sasl_username",
];

/// A part of an argument.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Macro(&'a str),
}

/// Takes an argument apart: `$name`, `${name}`, `$(name)`, `$$`. What is filled in is never looked into again.
fn pieces(word: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut all = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        all.push(Piece::Text(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            all.push(Piece::Text("$"));
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
                let end = rest.find(close).ok_or_else(|| format!("\"{word}\": no {close} after ${}", &rest[..1]))?;
                (rest[1..end].trim(), &rest[end + 1..])
            }
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        if !OF_RECIPIENT.contains(&name) && !OF_MESSAGE.contains(&name) {
            return Err(format!("unknown macro name: \"{name}\" in \"{word}\" (a dollar sign is written $$)"));
        }
        all.push(Piece::Macro(name));
        rest = after;
    }
    all.push(Piece::Text(rest));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_apart() {
        for (word, expected) in [
            ("-d", vec![Piece::Text("-d")]),
            ("-a=${recipient}x", vec![Piece::Text("-a="), Piece::Macro("recipient"), Piece::Text("x")]),
            (
                "$user/$(domain)",
                vec![Piece::Text(""), Piece::Macro("user"), Piece::Text("/"), Piece::Macro("domain"), Piece::Text("")],
            ),
            ("$$x", vec![Piece::Text(""), Piece::Text("$"), Piece::Text("x")]),
            ("", vec![Piece::Text("")]),
        ] {
            assert_eq!(pieces(word).unwrap(), expected, "{word}");
        }
        for word in ["$foo", "${recipient", "${recipient?x}", "$", "100$ off", "${}", "$(sender"] {
            assert!(pieces(word).is_err(), "{word}");
        }
    }
}

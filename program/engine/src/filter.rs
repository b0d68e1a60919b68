//! Mail filters (milters) at the end of a message: they see it as it would be queued, and it is queued as they leave it.
//!
//! Mail from the network comes with the conversation that its session has had with the filters. Mail of this machine's
//! users, and notices where `internal_mail_filter_classes` names them, get one made up here, as Postfix's cleanup does: a
//! connection from `localhost`, HELO with our name, the envelope.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::{fmt, io};

use yamabiko_checks::Action;
use yamabiko_cleanup::{Accepted, Cleanup};
use yamabiko_envelope::{
    Client as LoggedClient, Content, ContentAction, Decision, Envelope, Kind, Notify, QueueId, Severity, Source,
    Timestamp,
};
use yamabiko_message::FieldName;
use yamabiko_message::mime::HeaderClass;
use yamabiko_milter::{Change, Client, Macros, Message, Milters, Session, Verdict};
use yamabiko_receive::{Filtering, Refusal};
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::generation::{Current, Generation};

/// A header section longer than this is refused. Cleanup refuses those that came so; this is for what was added since.
const HEADER_LIMIT: usize = 16 << 20;

/// Why a message cannot be shown to filters. It is refused then: nothing passes that they have not seen.
#[derive(Debug)]
enum Unshown {
    HeaderTooLarge,
    Unreadable(io::Error),
}

impl Unshown {
    fn refusal(&self) -> Refusal {
        let (code, status, text) = match self {
            Self::HeaderTooLarge => (552, EnhancedStatus::permanent(3, 4), "Error: message header section too large"),
            Self::Unreadable(_) => (451, EnhancedStatus::transient(3, 0), "Error: queue file read error"),
        };
        Refusal { code: ReplyCode(code), status, text: text.to_owned() }
    }
}

impl fmt::Display for Unshown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderTooLarge => write!(f, "header section of more than {HEADER_LIMIT} bytes: message refused"),
            Self::Unreadable(error) => write!(f, "cannot read the message for mail filters: {error}"),
        }
    }
}

/// What becomes of a message that filters have seen.
pub enum Filtered {
    /// It is queued, changed perhaps.
    Accept(Box<Accepted>),
    /// It is not. The message, where it is one of our users', so that it can go back to its sender.
    Refuse(Refusal, Option<Box<Accepted>>),
    /// Success is claimed and nothing kept.
    Discard,
}

/// Shows a message to the filters: in the conversation that its session has had with them, or in one made up.
pub async fn run(
    generation: &Generation,
    current: &Current,
    accepted: Accepted,
    source: Source,
    filtering: Option<Filtering<'_>>,
    own: Option<&(Arc<Milters>, u64)>,
) -> Filtered {
    if let Some(filtering) = filtering {
        return content(generation, current, accepted, source, filtering).await;
    }
    let Some((milters, size_limit)) = own else { return Filtered::Accept(Box::new(accepted)) };
    let envelope = &accepted.envelope;
    let mut macros = OwnMacros::new(milters, envelope, &generation.myhostname);
    let mut session = Session::new(Arc::clone(milters), *size_limit);
    let told = tell(&mut session, &mut macros, envelope).await;
    warn(current, &mut session);
    let filtered = match told {
        Ok(()) => {
            let filtering = Filtering { session: &mut session, macros: &macros };
            content(generation, current, accepted, source, filtering).await
        }
        Err((stage, None)) => {
            log(current, envelope, source, "milter-discard", stage, "milter triggers DISCARD action");
            Filtered::Discard
        }
        Err((stage, Some(reply))) => {
            let refusal = refusal(&reply);
            let text = format!("{} {}", refusal.status, refusal.text.replace('\n', " "));
            log(current, envelope, source, "milter-reject", stage, &text);
            Filtered::Refuse(refusal, Some(Box::new(accepted)))
        }
    };
    session.quit().await;
    filtered
}

/// What went wrong with the filters, in the name of the stage that shows them messages.
fn warn(current: &Current, session: &mut Session) {
    for text in session.take_warnings() {
        let kind = Kind::Text { severity: Severity::Warning, queue_id: None, text };
        current.emit("cleanup", Timestamp::now(), kind);
    }
}

/// A conversation about a message that did not come over the network, up to its content. An error is the step that was
/// refused, with the reply; without one the message is discarded.
async fn tell(
    session: &mut Session,
    macros: &mut OwnMacros,
    envelope: &Envelope,
) -> Result<(), (&'static str, Option<String>)> {
    let decide = |stage: &'static str, verdict: Verdict| match verdict {
        Verdict::Continue | Verdict::Hold => Ok(()),
        Verdict::Discard => Err((stage, None)),
        Verdict::Reply(reply) => Err((stage, Some(reply))),
    };
    let client = Client { name: "localhost", address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0 };
    decide("CONNECT", session.connect(client, macros).await)?;
    decide("HELO", session.helo(client.name, macros).await)?;
    let path = |address: &str| vec![format!("<{}>", yamabiko_address::quote(address))];
    decide("MAIL", session.mail(&path(&envelope.sender), macros).await)?;
    for recipient in &envelope.recipients {
        macros.recipient.clone_from(&recipient.address);
        decide("RCPT", session.rcpt(&path(&recipient.address), false, macros).await)?;
    }
    decide("DATA", session.data(macros).await)
}

/// Shows a message to the filters of its session.
async fn content(
    generation: &Generation,
    current: &Current,
    accepted: Accepted,
    source: Source,
    filtering: Filtering<'_>,
) -> Filtered {
    let id = accepted.envelope.queue_id;
    let mut work = Work { generation, current, accepted, source };
    let (head, body) = match split(&work.accepted.head, &work.accepted.body) {
        Ok(parts) => parts,
        Err(why) => {
            current.say(Severity::Warning, Some(id), &why.to_string());
            return Filtered::Refuse(why.refusal(), Some(Box::new(work.accepted)));
        }
    };
    let mut message = Message::new(&head, body);
    let verdict = filtering.session.content(&mut message, filtering.macros).await;
    warn(current, filtering.session);
    match verdict {
        Verdict::Continue | Verdict::Hold => {
            if verdict == Verdict::Hold {
                work.hold();
            }
            work.apply(message).await
        }
        Verdict::Discard => {
            work.log("milter-discard", "milter triggers DISCARD action");
            Filtered::Discard
        }
        Verdict::Reply(reply) => {
            let refusal = refusal(&reply);
            work.log("milter-reject", &format!("{} {}", refusal.status, refusal.text.replace('\n', " ")));
            Filtered::Refuse(refusal, Some(Box::new(work.accepted)))
        }
    }
}

/// A reply of a filter as a refusal: code, status, text; lines are separated by LF.
fn refusal(reply: &str) -> Refusal {
    let code = ReplyCode(reply.get(..3).and_then(|code| code.parse().ok()).unwrap_or(451));
    let mut found = None;
    let mut lines = Vec::new();
    for line in reply.split("\r\n") {
        let line = line.get(4..).unwrap_or_default();
        // Each line has the status again.
        let (status, text) = EnhancedStatus::split(line).map_or((None, line), |(status, text)| (Some(status), text));
        found = found.or(status);
        lines.push(text);
    }
    let status = found.unwrap_or(EnhancedStatus::permanent(7, 1)).agreeing_with(code);
    Refusal { code, status, text: lines.join("\n") }
}

/// A message between cleanup and the queue.
struct Work<'w> {
    generation: &'w Generation,
    current: &'w Current,
    accepted: Accepted,
    source: Source,
}

impl Work<'_> {
    /// `milter_header_checks`: what filters have put into the header section is looked at. `Some`: it ends here.
    async fn check(&mut self, message: &mut Message) -> Option<Filtered> {
        let checks = &self.generation.made_checks;
        if checks.is_empty() {
            return None;
        }
        // From the last to the first: what is put in somewhere moves only what was looked at already.
        let made: Vec<_> = message.made().collect();
        for (at, field) in made.into_iter().rev() {
            let name = yamabiko_message::field_name_len(&field);
            let name = name.and_then(|length| FieldName::find(field.get(..length)?));
            let found = match checks.header(HeaderClass::Primary, name, &field).await {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(error) => {
                    let id = self.accepted.envelope.queue_id;
                    self.current.say(Severity::Warning, Some(id), &error.to_string());
                    let status = EnhancedStatus::transient(3, 0);
                    let text = "Error: queue file write error".to_owned();
                    return Some(Filtered::Refuse(Refusal { code: ReplyCode(451), status, text }, None));
                }
            };
            let action = match found.action {
                Ok(action) => action,
                Err(fault) => {
                    let text = fault.text(found.parameter);
                    self.current.say(Severity::Warning, None, &text);
                    continue;
                }
            };
            let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
            let (word, text) = match &action {
                Action::Dunno | Action::Ignore => ("", String::new()),
                Action::Strip(text) => ("milter-header-strip", shown(text)),
                Action::Replace(text) => ("milter-header-replace", shown(text)),
                Action::Prepend(text) => ("milter-header-prepend", shown(text)),
                Action::Reject(status, why) => ("milter-header-reject", format!("{status} {why}")),
                Action::Discard(text) => ("milter-header-discard", shown(text)),
                Action::Hold(text) => ("milter-header-hold", shown(text)),
                Action::Warn(text) => ("milter-header-warning", shown(text)),
                Action::Info(text) => ("milter-header-info", shown(text)),
                Action::Pass(text) => ("milter-header-pass", shown(text)),
                Action::Redirect(text) => ("milter-header-redirect", text.clone()),
                Action::Bcc(text) => ("milter-header-bcc", text.clone()),
                Action::Filter(text) => ("milter-header-filter", text.clone()),
            };
            if !word.is_empty() {
                self.log_made(word, &field, text);
            }
            match action {
                Action::Dunno | Action::Warn(_) | Action::Info(_) => {}
                Action::Pass(_) => break,
                Action::Ignore | Action::Strip(_) => message.put(at, Vec::new()),
                Action::Replace(new) => message.put(at, vec![new.into()]),
                Action::Prepend(new) => message.put(at, vec![new.into(), field]),
                Action::Discard(_) => return Some(Filtered::Discard),
                Action::Hold(_) => self.accepted.hold = true,
                Action::Filter(destination) => self.accepted.envelope.filter = destination,
                Action::Redirect(address) => {
                    let recipients = &mut self.accepted.envelope.recipients;
                    recipients.truncate(1);
                    recipients.iter_mut().for_each(|recipient| recipient.address.clone_from(&address));
                }
                Action::Bcc(address) => {
                    if let Err(refusal) = self.add_recipient(&format!("<{address}>"), "NOTIFY=NEVER").await {
                        return Some(Filtered::Refuse(refusal, None));
                    }
                }
                Action::Reject(status, text) => {
                    let code = ReplyCode(if status.class.digit() == 4 { 451 } else { 550 });
                    return Some(Filtered::Refuse(
                        Refusal { code, status, text },
                        Some(Box::new(self.accepted.clone())),
                    ));
                }
            }
        }
        None
    }

    fn log_made(&self, word: &'static str, field: &[u8], text: String) {
        let envelope = &self.accepted.envelope;
        let client = &envelope.client;
        let network = self.source == Source::Smtp;
        let content = String::from_utf8_lossy(field).replace('\n', " ");
        let action = ContentAction {
            queue_id: envelope.queue_id,
            word,
            class: "header",
            content: content.chars().take(60).collect(),
            // Filters are shown mail of this machine as from itself.
            client: Some(match network {
                true => LoggedClient { name: client.name.as_str().into(), address: client.address, port: None },
                false => LoggedClient { name: "localhost".into(), address: Some([127, 0, 0, 1].into()), port: None },
            }),
            sender: envelope.sender.clone(),
            recipient: match &envelope.recipients[..] {
                [only] => Some(only.address.clone()),
                _ => None,
            },
            protocol: client.protocol.clone(),
            helo: client.helo.clone(),
            text,
        };
        self.current.emit("cleanup", Timestamp::now(), Kind::ContentChecked(Box::new(action)));
    }

    async fn apply(mut self, mut message: Message) -> Filtered {
        if let Some(end) = self.check(&mut message).await {
            return end;
        }
        for change in message.changes() {
            let done = match change {
                Change::Hold(_) => {
                    self.hold();
                    Ok(())
                }
                Change::Sender(address, _) => self.sender(address).await,
                Change::AddRecipient(address, parameters) => self.add_recipient(address, parameters).await,
                Change::DeleteRecipient(address) => {
                    self.delete_recipient(address);
                    Ok(())
                }
            };
            if let Err(refusal) = done {
                return Filtered::Refuse(refusal, None);
            }
        }
        if message.is_changed() {
            let (head, body) = message.into_parts();
            let accepted = &mut self.accepted;
            accepted.envelope.size = head.len() as u64 + body.iter().map(Content::len).sum::<u64>();
            accepted.head = head.into();
            accepted.body = body;
        }
        if self.accepted.envelope.recipients.is_empty() {
            // Filters may take away the last one: nobody is left to get it.
            self.log("milter-discard", "milter triggers deletion of all recipients");
            return Filtered::Discard;
        }
        Filtered::Accept(Box::new(self.accepted))
    }

    fn cleanup(&self) -> &Cleanup {
        &self.generation.cleanup
    }

    /// An address of a filter in internal form; what is none is said and left alone.
    fn address(&self, text: &str) -> Option<String> {
        match yamabiko_address::path::parse(text, false) {
            Ok(path) => Some(path.address),
            Err(_) => {
                let text = format!("milter: bad address \"{text:.200}\"");
                self.current.say(Severity::Warning, Some(self.accepted.envelope.queue_id), &text);
                None
            }
        }
    }

    async fn sender(&mut self, text: &str) -> Result<(), Refusal> {
        let Some(address) = self.address(text) else { return Ok(()) };
        let rewritten = self.cleanup().sender_of_filter(&self.accepted.envelope, self.source, &address).await;
        self.accepted.envelope.sender = rewritten.map_err(of_cleanup)?;
        Ok(())
    }

    async fn add_recipient(&mut self, text: &str, parameters: &str) -> Result<(), Refusal> {
        let Some(address) = self.address(text).filter(|address| !address.is_empty()) else { return Ok(()) };
        let (envelope, notify) = (&mut self.accepted.envelope, notify(parameters));
        let added = self.generation.cleanup.recipient_of_filter(envelope, self.source, &address, notify);
        added.await.map_err(of_cleanup)
    }

    fn delete_recipient(&mut self, text: &str) {
        let Some(address) = self.address(text) else { return };
        let rewriter = self.generation.router.rewriter();
        let wanted = rewriter.rewrite(yamabiko_envelope::RewriteContext::Local, &address).to_lowercase();
        // Filters know the addresses that were given; aliases and other mappings came after.
        self.accepted.envelope.recipients.retain(|recipient| {
            let given = if recipient.original.is_empty() { &recipient.address } else { &recipient.original };
            given.to_lowercase() != wanted && recipient.address.to_lowercase() != wanted
        });
    }

    fn hold(&mut self) {
        if !self.accepted.hold {
            self.log("milter-hold", "milter triggers HOLD action");
            self.accepted.hold = true;
        }
    }

    fn log(&self, word: &'static str, text: &str) {
        log(self.current, &self.accepted.envelope, self.source, word, "END-OF-MESSAGE", text);
    }
}

fn log(current: &Current, envelope: &Envelope, source: Source, word: &'static str, stage: &'static str, text: &str) {
    let client = &envelope.client;
    let network = source == Source::Smtp;
    let decision = Decision {
        queue_id: Some(envelope.queue_id),
        word,
        stage: stage.into(),
        client: LoggedClient {
            name: if network { client.name.as_str().into() } else { "localhost".into() },
            address: if network { client.address } else { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) },
            port: None,
        },
        text: text.to_owned(),
        sender: Some(envelope.sender.clone()),
        recipient: envelope.recipients.last().map(|recipient| recipient.address.clone()),
        protocol: client.protocol.clone(),
        helo: Some(client.helo.clone()).filter(|helo| !helo.is_empty()),
        steps: Vec::new(),
    };
    current.emit("cleanup", Timestamp::now(), Kind::Decided(Box::new(decision)));
}

/// `NOTIFY=` among a filter's ESMTP parameters; the others mean nothing here.
fn notify(parameters: &str) -> Notify {
    let mut notify = Notify::default();
    let mut words = parameters.split_ascii_whitespace();
    let value =
        words.find_map(|word| word.get(..7).filter(|name| name.eq_ignore_ascii_case("NOTIFY=")).map(|_| &word[7..]));
    for word in value.unwrap_or_default().split(',') {
        match word.to_ascii_uppercase().as_str() {
            "NEVER" => notify.never = true,
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => {}
        }
    }
    notify
}

fn of_cleanup(refusal: yamabiko_cleanup::Refusal) -> Refusal {
    let text = refusal.text();
    Refusal { code: refusal.code, status: refusal.status, text }
}

/// The whole header section, and the body behind it.
fn split(head: &[u8], body: &[Content]) -> Result<(Vec<u8>, Vec<Content>), Unshown> {
    let mut head = head.to_vec();
    if let Some(end) = end_of_header(&head, 0) {
        let rest = Content::from(head.split_off(end));
        let rest = std::iter::once(rest).filter(|rest| !rest.is_empty());
        return Ok((head, rest.chain(body.iter().cloned()).collect()));
    }
    let mut body = body.iter();
    while let Some(part) = body.next() {
        let (mut at, mut piece) = (0, vec![0; 16 << 10]);
        while at < part.len() {
            let read = part.read_at(&mut piece, at).map_err(Unshown::Unreadable)?;
            let from = head.len().saturating_sub(1);
            head.extend_from_slice(&piece[..read]);
            at += read as u64;
            if let Some(end) = end_of_header(&head, from) {
                let beyond = (head.len() - end) as u64;
                head.truncate(end);
                let rest = std::iter::once(part.slice(at - beyond, part.len()));
                return Ok((head, rest.chain(body.cloned()).collect()));
            }
            if head.len() > HEADER_LIMIT {
                return Err(Unshown::HeaderTooLarge);
            }
        }
    }
    // No body at all.
    if !head.ends_with(b"\n") && !head.is_empty() {
        head.push(b'\n');
    }
    head.push(b'\n');
    Ok((head, Vec::new()))
}

/// Where the header section ends, its empty line included; looked for from `from` on.
fn end_of_header(text: &[u8], from: usize) -> Option<usize> {
    if text.first() == Some(&b'\n') {
        return Some(1);
    }
    memchr::memmem::find(&text[from..], b"\n\n").map(|at| from + at + 2)
}

/// Values for a message of our own.
struct OwnMacros {
    queue_id: QueueId,
    myhostname: String,
    daemon_name: String,
    version: String,
    sender: String,
    recipient: String,
}

impl OwnMacros {
    fn new(milters: &Milters, envelope: &Envelope, myhostname: &str) -> Self {
        Self {
            queue_id: envelope.queue_id,
            myhostname: myhostname.to_owned(),
            daemon_name: milters.daemon_name.clone(),
            version: milters.version.clone(),
            sender: envelope.sender.clone(),
            recipient: String::new(),
        }
    }
}

impl Macros for OwnMacros {
    fn value(&self, name: &str) -> Option<String> {
        let name = name.trim_start_matches('{').trim_end_matches('}');
        Some(match name {
            "i" => self.queue_id.to_string(),
            "j" => self.myhostname.clone(),
            "v" => self.version.clone(),
            "_" => "localhost [127.0.0.1]".to_owned(),
            "daemon_name" => self.daemon_name.clone(),
            "client_name" | "client_ptr" => "localhost".to_owned(),
            "client_addr" | "daemon_addr" => "127.0.0.1".to_owned(),
            "daemon_port" => "0".to_owned(),
            "mail_addr" => self.sender.clone(),
            "rcpt_addr" if !self.recipient.is_empty() => self.recipient.clone(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    fn file(text: &[u8], claimed: u64, readable: bool) -> Content {
        let mut made = tempfile::NamedTempFile::new().unwrap();
        made.write_all(text).unwrap();
        let file = File::options().read(readable).write(true).open(made.path()).unwrap();
        Content::File { file: Arc::new(file), offset: 0, len: claimed }
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        let field = format!("X: {}\n", "x".repeat(997));
        let huge = field.repeat(HEADER_LIMIT / field.len() + 2);
        type Case = (&'static str, Vec<Content>, Result<(&'static str, &'static str), (u16, &'static str)>);
        let cases: Vec<Case> = vec![
            ("A: b\n\nc", vec![], Ok(("A: b\n\n", "c"))),
            ("A: b\n", vec![Content::from(b"\nc".to_vec())], Ok(("A: b\n\n", "c"))),
            ("A: b\n", vec![Content::from(b"C: d\n\ne\n\nf".to_vec())], Ok(("A: b\nC: d\n\n", "e\n\nf"))),
            ("A: b", vec![], Ok(("A: b\n\n", ""))),
            ("A: b\n", vec![file(b"\nc", 2, true)], Ok(("A: b\n\n", "c"))),
            ("A: b\n", vec![Content::from(huge.into_bytes())], Err((552, "5.3.4"))),
            // The disk does not give it back.
            ("A: b\n", vec![file(b"\nc", 2, false)], Err((451, "4.3.0"))),
            ("A: b\n", vec![file(b"B: c\n", 600, true)], Err((451, "4.3.0"))),
        ];
        for (head, body, expected) in cases {
            match (split(head.as_bytes(), &body), expected) {
                (Ok((head, body)), Ok((expected_head, expected_body))) => {
                    assert_eq!(String::from_utf8(head).unwrap(), expected_head);
                    let body: Vec<u8> = body.iter().flat_map(|part| part.to_bytes().unwrap().to_vec()).collect();
                    assert_eq!(String::from_utf8(body).unwrap(), expected_body);
                }
                (Err(why), Err((code, status))) => {
                    let refusal = why.refusal();
                    assert_eq!((refusal.code.0, refusal.status.to_string().as_str()), (code, status), "{why}");
                }
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        }
    }
}

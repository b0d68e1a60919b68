//! From facts of a log to entries of the ledger.

use std::collections::HashMap;
use std::time::Duration;

use yamabiko_address::unquote;
use yamabiko_analyze::{Analyzer, Date, Reply};
use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_ledger::{Entry, Error, What, Writer, remote_id, stage_of};
use yamabiko_maillog::join::{Fact, Message};
use yamabiko_maillog::reply::{Said, said};
use yamabiko_maillog::{Attempt, Content, Entry as Line, Notice, Outcome, Refusal, System, What as Told};
use yamabiko_status::{EnhancedStatus, ReplyCode};

/// Texts whose reason is remembered; with more the memory is emptied.
const CLASSIFIED: usize = 1 << 16;

/// Enters facts.
pub struct Fill<'a> {
    analyzer: &'a Analyzer,
    /// `None`: nothing is entered (`--dry-run`).
    writer: Option<&'a mut Writer>,
    reasons: HashMap<u64, &'static str>,
    /// Entries that are new.
    pub entered: u64,
    /// Entries that the ledger had already.
    pub known: u64,
    /// Attempts by outcome: sent, deferred, bounced.
    pub attempts: [u64; 3],
    /// Why addresses failed for good: how often.
    pub failures: HashMap<&'static str, u64>,
    /// The first thing that went wrong; nothing is entered after it.
    pub error: Option<Error>,
}

impl<'a> Fill<'a> {
    /// Into a ledger, or nowhere.
    pub fn new(analyzer: &'a Analyzer, writer: Option<&'a mut Writer>) -> Self {
        Self {
            analyzer,
            writer,
            reasons: HashMap::new(),
            entered: 0,
            known: 0,
            attempts: [0; 3],
            failures: HashMap::new(),
            error: None,
        }
    }

    /// The ledger's writer.
    pub fn writer(&mut self) -> Option<&mut Writer> {
        self.writer.as_deref_mut()
    }

    /// Enters one entry.
    pub fn enter(&mut self, entry: &Entry) {
        if self.error.is_some() {
            return;
        }
        let Some(writer) = self.writer.as_deref_mut() else {
            self.entered += 1;
            return;
        };
        match writer.append(entry) {
            Ok(true) => self.entered += 1,
            Ok(false) => self.known += 1,
            Err(error) => self.error = Some(error),
        }
    }

    /// Enters what a line means.
    pub fn fact(&mut self, fact: Fact<'_>, line: &Line<'_>) {
        match fact {
            Fact::Queued(message, at) => self.queued(message, at),
            Fact::Attempt(message, attempt, tls) => self.attempt(message, attempt, tls, line),
            Fact::Other(message) => self.other(message, line),
            Fact::NoQueue => {
                if let Told::Refused(refusal) = line.what {
                    self.refused(None, &refusal, line);
                }
            }
        }
    }

    /// Enters what is known of a message.
    pub fn queued(&mut self, message: &Message, at: Timestamp) {
        let entry = Entry {
            host: message.host.clone(),
            sender: message.sender.as_deref().map(|sender| unquote(sender).into_owned()),
            message_id: message.message_id.clone(),
            client: message.client.clone(),
            size: message.size,
            ..Entry::new(at, What::Queued, message.id.clone(), "")
        };
        self.enter(&entry);
    }

    fn attempt(&mut self, message: &Message, attempt: &Attempt<'_>, tls: &str, line: &Line<'_>) {
        let what = match attempt.outcome {
            Outcome::Sent => What::Sent,
            Outcome::Forwarded => What::Expanded,
            Outcome::Deferred | Outcome::SoftBounce => What::Deferred,
            Outcome::Bounced => What::Bounced,
            Outcome::Expired => What::Expired,
            // A probe is nobody's mail.
            Outcome::Deliverable | Outcome::Undeliverable => return,
        };
        self.attempts[match what {
            What::Deferred => 1,
            What::Bounced | What::Expired => 2,
            _ => 0,
        }] += 1;
        let said = said(line.system, attempt.reason);
        let status = attempt.dsn.parse::<EnhancedStatus>().ok();
        let (code, stated) = if said.remote { code_and_status(said.reply) } else { (None, None) };
        let status = status.or(stated);
        let recipient = unquote(attempt.recipient).into_owned();
        let reason = match what {
            What::Sent | What::Expanded => "",
            _ => self.reason(attempt, &said, status, &recipient, line),
        };
        if matches!(what, What::Bounced | What::Expired) {
            *self.failures.entry(reason).or_default() += 1;
        }
        let entry = Entry {
            host: message.host.clone(),
            original: unquote(attempt.original).into_owned(),
            program: line.program.to_owned(),
            relay: if attempt.relay == "none" { String::new() } else { attempt.relay.to_owned() },
            // What another message met there is no stage of this one.
            stage: said.stage.filter(|_| !said.suspended),
            status,
            reply: code,
            reason: reason.to_owned(),
            text: attempt.reason.to_owned(),
            remote_id: if what == What::Sent { remote_id(attempt.reason).to_owned() } else { String::new() },
            tls: tls.to_owned(),
            delay: attempt.delay.map(Duration::from_micros),
            ..Entry::new(line.at, in_mailbox(what, attempt, line), message.id.clone(), recipient)
        };
        self.enter(&entry);
    }

    /// Sisimai's name of why an attempt failed.
    fn reason(
        &mut self,
        attempt: &Attempt<'_>,
        said: &Said<'_>,
        status: Option<EnhancedStatus>,
        recipient: &str,
        line: &Line<'_>,
    ) -> &'static str {
        // sendmail says `User unknown` with its status beside it.
        let made = match (line.system, status) {
            (System::Sendmail, Some(status)) => Some(format!("{status} {}", said.reply)),
            _ => None,
        };
        let text = made.as_deref().unwrap_or(said.reply);
        let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        let key = key(&[text, said.host.name, domain], recipient, said.stage.map_or(0, |stage| stage as u8 + 1));
        if let Some(known) = self.reasons.get(&key) {
            return known;
        }
        let reply = Reply {
            text,
            stage: said.stage.and_then(stage_of),
            remote_host: if said.host.name == "unknown" { "" } else { said.host.name },
            recipient,
            date: Some(Date::utc(i64::try_from(line.at.seconds()).unwrap_or(0))),
        };
        let mut found = self.analyzer.classify(&reply).reason.name();
        // Its age is why it was given up, if nobody said anything else.
        if attempt.outcome == Outcome::Expired && matches!(found, "undefined" | "onhold") {
            found = "expired";
        }
        if self.reasons.len() >= CLASSIFIED {
            self.reasons.clear();
        }
        self.reasons.insert(key, found);
        found
    }

    fn other(&mut self, message: &Message, line: &Line<'_>) {
        let about = |what| Entry {
            host: message.host.clone(),
            program: line.program.to_owned(),
            ..Entry::new(line.at, what, message.id.clone(), "")
        };
        let entry = match line.what {
            Told::Noticed { notice, notice_id, .. } => {
                let by = match notice {
                    Notice::Failure => "failure to sender",
                    Notice::Delay => "delay to sender",
                    Notice::Success => "success to sender",
                    Notice::Postmaster => "failure to postmaster",
                };
                Entry { related: notice_id.to_owned(), by: by.to_owned(), ..about(What::Noticed) }
            }
            Told::Expired { sender, forced, .. } => Entry {
                sender: Some(unquote(sender).into_owned()),
                by: if forced { "operator".to_owned() } else { String::new() },
                reason: "expired".to_owned(),
                ..about(What::Expired)
            },
            Told::Operated { what, .. } => match what {
                "removed" => about(What::Deleted),
                "requeued" => about(What::Requeued),
                "placed on hold" => Entry { by: "operator".to_owned(), ..about(What::Held) },
                "released from hold" => about(What::Released),
                _ => return,
            },
            Told::Removed { why: "discarded", .. } if line.program == "bounce" => {
                Entry { text: line.text.to_owned(), by: "undeliverable notice".to_owned(), ..about(What::Discarded) }
            }
            Told::Refused(refusal) => return self.refused(Some(message), &refusal, line),
            Told::Content(content) => match checked(&content, about(What::Note)) {
                Some(entry) => entry,
                None => return,
            },
            _ => return,
        };
        self.enter(&entry);
    }

    fn refused(&mut self, message: Option<&Message>, refusal: &Refusal<'_>, line: &Line<'_>) {
        let Some(what) = decided(refusal.word) else { return };
        let recipient = refusal.recipient.map(|address| unquote(address).into_owned()).unwrap_or_default();
        // Recipients that are refused belong to no message: the rest of it may be accepted.
        let id = match message {
            Some(message) if what != What::Rejected || recipient.is_empty() => message.id.clone(),
            _ => String::new(),
        };
        // A refused connection or greeting is nobody's mail.
        if recipient.is_empty() && id.is_empty() {
            return;
        }
        let (reply, status) = code_and_status(refusal.text);
        let client = if refusal.client.address.is_empty() {
            refusal.client.name.to_owned()
        } else {
            format!("{}[{}]", refusal.client.name, refusal.client.address)
        };
        let entry = Entry {
            host: message
                .filter(|_| !id.is_empty())
                .map_or_else(|| line.host.to_owned(), |message| message.host.clone()),
            sender: refusal.sender.map(|sender| unquote(sender).into_owned()),
            client,
            program: line.program.to_owned(),
            stage: at_stage(refusal.stage),
            by: refusal.word.to_owned(),
            reply,
            status,
            text: refusal.text.to_owned(),
            ..Entry::new(line.at, what, id, recipient)
        };
        self.enter(&entry);
    }
}

/// Words of decisions that concern the fate of mail.
fn decided(word: &str) -> Option<What> {
    match word {
        "reject" | "milter-reject" => Some(What::Rejected),
        "discard" | "milter-discard" => Some(What::Discarded),
        "hold" | "milter-hold" => Some(What::Held),
        _ => None,
    }
}

fn checked(content: &Content<'_>, about: Entry) -> Option<Entry> {
    let what = decided(content.word)?;
    Some(Entry {
        what,
        sender: content.sender.map(|sender| unquote(sender).into_owned()),
        recipient: content.recipient.map(|address| unquote(address).into_owned()).unwrap_or_default(),
        by: format!("{} {}: {}", content.word, content.class, content.content),
        text: content.text.to_owned(),
        ..about
    })
}

/// What programs that deliver here mean by sent.
fn in_mailbox(what: What, attempt: &Attempt<'_>, line: &Line<'_>) -> What {
    if what != What::Sent {
        return what;
    }
    match line.system {
        System::Postfix => match line.program {
            "local" | "virtual" | "lmtp" => What::Delivered,
            "discard" => What::Discarded,
            _ => what,
        },
        System::Sendmail | System::Qmail if attempt.relay == "local" => What::Delivered,
        // The name of a transport, and no host: a mailbox, or a program.
        System::Exim if !attempt.relay.is_empty() && !attempt.relay.contains('[') => What::Delivered,
        _ => what,
    }
}

/// Code and status at the beginning of a reply.
pub fn code_and_status(text: &str) -> (Option<ReplyCode>, Option<EnhancedStatus>) {
    let text = text.trim_start();
    let code = text.get(..3).and_then(|code| code.parse::<u16>().ok()).filter(|code| (200..600).contains(code));
    let after = text.get(3..).unwrap_or_default().trim_start_matches(['-', ' ']);
    let status = after.split([' ', ')', ',']).next().and_then(|word| word.trim_start_matches('#').parse().ok());
    (code.map(ReplyCode), code.and(status))
}

fn at_stage(word: &str) -> Option<SmtpStage> {
    Some(match word {
        "CONNECT" => SmtpStage::Connect,
        "HELO" | "EHLO" => SmtpStage::Ehlo,
        "MAIL" => SmtpStage::Mail,
        "RCPT" => SmtpStage::Rcpt,
        "DATA" => SmtpStage::Data,
        "END-OF-MESSAGE" => SmtpStage::EndOfData,
        "AUTH" => SmtpStage::Auth,
        _ => return None,
    })
}

/// A number for what decides a reason: the texts without the recipient's own address, which is another in every line.
fn key(texts: &[&str], recipient: &str, stage: u8) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(stage);
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for text in texts {
        let bytes = text.as_bytes();
        let mut from = 0;
        if !recipient.is_empty() {
            for at in memchr::memmem::find_iter(bytes, recipient.as_bytes()) {
                take(&bytes[from..at]);
                take(b"\x01");
                from = at + recipient.len();
            }
        }
        take(&bytes[from..]);
        take(&[0xff]);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (text, code, status) in [
            ("550 5.1.1 no", Some(550), Some("5.1.1")),
            ("550-5.1.1 no", Some(550), Some("5.1.1")),
            ("550 no", Some(550), None),
            ("554 #5.7.1 x", Some(554), Some("5.7.1")),
            ("no", None, None),
            ("5.1.1 no", None, None),
            ("", None, None),
        ] {
            let (found, stated) = code_and_status(text);
            assert_eq!(found.map(|code| code.0), code, "{text}");
            assert_eq!(stated.map(|status| status.to_string()).as_deref(), status, "{text}");
        }
    }

    #[test]
    fn reasons_of_the_same_words_are_one() {
        let one = key(&["550 <a@b> unknown", "mx", "b"], "a@b", 1);
        assert_eq!(one, key(&["550 <c@b> unknown", "mx", "b"], "c@b", 1));
        assert_ne!(one, key(&["550 <c@b> full", "mx", "b"], "c@b", 1));
        assert_ne!(one, key(&["550 <c@b> unknown", "mx", "b"], "c@b", 2));
    }
}

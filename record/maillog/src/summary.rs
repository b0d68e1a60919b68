//! What pflogsumm counts, counted from entries: the same totals for the same Postfix log.
//!
//! Of sendmail, qmail and Exim the same things are counted by what they mean. Where pflogsumm 1.1.5 counts what was not
//! meant (a submission service under another name is not read by it; `conn_use=` and `tls=` stop it), this counts right.

use std::collections::{BTreeMap, HashMap};

use crate::entry::{Client, Entry, Outcome, Refusal, Severity, System, What};
use crate::join::{Fact, Join};
use crate::take::until;

/// Names in each table; what comes later is counted as `(more)`, so that memory is bounded.
const NAMES: usize = 500_000;
/// Kinds of texts in each table of problems.
const TEXTS: usize = 20_000;
const MORE: &str = "(more)";

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Messages, or recipients where recipients are counted.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What happened to recipients of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Delivered {
    /// Delivered recipients and bytes.
    pub sent: Volume,
    /// Deferrals.
    pub deferred: u64,
    /// Failures for good.
    pub bounced: u64,
    /// Delays of the delivered ones together, microseconds.
    pub delay: u64,
    /// The longest delay of an attempt that was delivered or deferred, microseconds.
    pub longest: u64,
}

/// Received, delivered, deferred, bounced, rejected.
pub type Five = [u64; 5];

/// Connections of clients: how many, seconds together, the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// How many.
    pub count: u64,
    /// Seconds together.
    pub seconds: u64,
    /// The longest, in seconds.
    pub longest: u64,
}

impl Sessions {
    fn add(&mut self, seconds: u64) {
        self.count += 1;
        self.seconds += seconds;
        self.longest = self.longest.max(seconds);
    }
}

/// Texts by group: program or relay or stage, then text, then whom it was about.
pub type Details = BTreeMap<String, HashMap<String, u64>>;

/// Everything that is counted.
#[derive(Default)]
pub struct Summary {
    /// Messages received.
    pub received: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Recipients forwarded.
    pub forwarded: u64,
    /// Messages with at least one deferral.
    pub deferred: u64,
    /// Deferrals.
    pub deferrals: u64,
    /// Recipients bounced.
    pub bounced: u64,
    /// Refusals.
    pub rejected: u64,
    /// Refusals that were only warned of.
    pub warned: u64,
    /// Held.
    pub held: u64,
    /// Discarded.
    pub discarded: u64,
    /// Bytes of messages received and of recipients delivered.
    pub bytes: (u64, u64),
    /// By day (year, month, day).
    pub days: BTreeMap<(i16, u8, u8), Five>,
    /// Days of which there are lines.
    pub seen_days: std::collections::BTreeSet<(i16, u8, u8)>,
    /// By hour of the day.
    pub hours: [Five; 24],
    /// By domain of recipients.
    pub recipient_domains: HashMap<String, Delivered>,
    /// By domain of senders, or host where the sender has none.
    pub sender_domains: HashMap<String, Volume>,
    /// By sender.
    pub senders: HashMap<String, Volume>,
    /// By recipient.
    pub recipients: HashMap<String, Volume>,
    /// Messages that were delivered and of which no size is known: ID and recipient.
    pub sizeless: BTreeMap<String, String>,
    /// Reasons of deferrals by program.
    pub deferral_texts: Details,
    /// Reasons of bounces by relay.
    pub bounce_texts: Details,
    /// Refusals by stage and text: whom.
    pub reject_texts: BTreeMap<String, Details>,
    /// Warnings instead of refusals, the same.
    pub warn_texts: BTreeMap<String, Details>,
    /// Holds, the same.
    pub hold_texts: BTreeMap<String, Details>,
    /// Discards, the same.
    pub discard_texts: BTreeMap<String, Details>,
    /// Connections that failed, by text: host.
    pub connect_failures: Details,
    /// Warnings by program.
    pub warnings: Details,
    /// Fatal errors by program.
    pub fatals: Details,
    /// Panics by program.
    pub panics: Details,
    /// Messages of master(8).
    pub master: HashMap<String, u64>,
    /// Connections to the SMTP server.
    pub sessions: Sessions,
    /// The same by day.
    pub session_days: BTreeMap<(i16, u8, u8), Sessions>,
    /// The same by hour of the day.
    pub session_hours: [Sessions; 24],
    /// The same by client domain.
    pub session_domains: HashMap<String, Sessions>,
    last_day: Option<(i16, u8, u8)>,
    join: Join,
    messages: HashMap<(String, String), Open>,
    connected: HashMap<(String, u32), u64>,
}

/// What is remembered of a message.
#[derive(Clone, Debug, Default)]
struct Open {
    /// Domain of the client, or `pickup`; empty where its first line was not seen.
    from: String,
    size: Option<u64>,
    was_deferred: bool,
}

/// Open messages and connections, at most.
const OPEN: usize = 1 << 20;

impl Summary {
    /// Counts an entry.
    pub fn entry(&mut self, entry: &Entry<'_>) {
        if self.last_day != Some(day(entry)) {
            self.last_day = Some(day(entry));
            self.seen_days.insert(day(entry));
        }
        match entry.what {
            What::Accepted { id, client, .. } if entry.system == System::Postfix => {
                self.received(entry, id, client_domain(client));
            }
            What::PickedUp { id, .. } => self.received(entry, id, "pickup".to_owned()),
            What::Queued { id, sender, size, client, begins, .. } => {
                self.queued(entry, id, sender, size, client, begins)
            }
            What::Refused(ref refusal) => self.refused(entry, refusal),
            What::Content(ref content) => {
                let text = trimmed(content.content, 64);
                self.decided(entry, content.word, "cleanup", content.class, &text);
            }
            What::ConnectFailed { peer, why } if entry.program == "smtp" => {
                let why = why.trim_end_matches(')');
                let why = until(why, " (port ").map_or(why, |(why, _)| why);
                note(&mut self.connect_failures, &why.to_ascii_lowercase(), peer.name);
            }
            What::Trouble { severity, text } => {
                let table = match severity {
                    Severity::Warning | Severity::Error => &mut self.warnings,
                    Severity::Fatal => &mut self.fatals,
                    Severity::Panic => &mut self.panics,
                };
                note(table, entry.program, &trimmed(text, 66));
            }
            What::Connected(_) => {
                if self.connected.len() >= OPEN {
                    self.connected.clear();
                }
                self.connected.insert((entry.host.to_owned(), entry.pid), entry.at.seconds());
            }
            What::Disconnected(client) => {
                if let Some(began) = self.connected.remove(&(entry.host.to_owned(), entry.pid)) {
                    let seconds = entry.at.seconds().saturating_sub(began);
                    self.sessions.add(seconds);
                    self.session_days.entry(day(entry)).or_default().add(seconds);
                    self.session_hours[usize::from(entry.civil.hour % 24)].add(seconds);
                    bounded(&mut self.session_domains, client_domain(client)).add(seconds);
                }
            }
            What::Remark { .. } if entry.program == "master" => *texts(&mut self.master, entry.text) += 1,
            _ => {}
        }
        if let (What::Removed { id, .. }, true) = (entry.what, entry.system != System::Qmail) {
            self.messages.remove(&(entry.host.to_owned(), id.to_owned()));
        }
        // Deliveries come through the join: qmail's have two lines.
        let mut join = std::mem::take(&mut self.join);
        join.entry(entry, &mut |fact, entry| {
            if let Fact::Attempt(_, attempt, _) = fact {
                self.attempt(entry, attempt);
            }
        });
        self.join = join;
    }

    fn five(&mut self, entry: &Entry<'_>, column: usize) {
        // Columns are the constants below; hours are 0 to 23.
        self.hours[usize::from(entry.civil.hour % 24)][column] += 1;
        self.days.entry(day(entry)).or_default()[column] += 1;
    }

    /// Counts that a day was seen, even if nothing that has a column happened on it.
    fn message(&mut self, entry: &Entry<'_>, id: &str) -> &mut Open {
        if self.messages.len() >= OPEN {
            self.messages.clear();
        }
        self.messages.entry((entry.host.to_owned(), id.to_owned())).or_default()
    }

    fn received(&mut self, entry: &Entry<'_>, id: &str, from: String) {
        self.received += 1;
        self.five(entry, 0);
        *self.message(entry, id) = Open { from, ..Open::default() };
    }

    fn queued(
        &mut self,
        entry: &Entry<'_>,
        id: &str,
        sender: &str,
        size: Option<u64>,
        client: Client<'_>,
        begins: bool,
    ) {
        if begins {
            let from = if client == Client::default() { "pickup".to_owned() } else { client_domain(client) };
            self.received(entry, id, from);
        }
        let open = self.message(entry, id);
        // Each attempt has the line again.
        if open.size.is_some() {
            return;
        }
        open.size = size;
        let from = std::mem::take(&mut open.from);
        if from.is_empty() {
            // Notices and forwarded mail were not received.
            return;
        }
        let sender = if sender.is_empty() { "from=<>".to_owned() } else { lower_domain(sender) };
        let domain = match sender.split_once('@') {
            Some((_, domain)) if !domain.is_empty() => domain.to_owned(),
            _ if from == "pickup" => sender.clone(),
            _ => from,
        };
        let size = size.unwrap_or(0);
        for (table, name) in [(&mut self.sender_domains, domain), (&mut self.senders, sender)] {
            let volume = bounded(table, name);
            volume.count += 1;
            volume.bytes += size;
        }
        self.bytes.0 += size;
    }

    fn attempt(&mut self, entry: &Entry<'_>, attempt: &crate::Attempt<'_>) {
        let address = lower_domain(attempt.recipient);
        let domain = address.split_once('@').map_or(address.clone(), |(_, domain)| domain.to_owned());
        let delay = attempt.delay.unwrap_or(0);
        match attempt.outcome {
            Outcome::Forwarded => self.forwarded += 1,
            Outcome::Sent => {
                self.delivered += 1;
                self.five(entry, 1);
                let size = self.message(entry, attempt.id).size;
                if size.is_none() && self.sizeless.len() < TEXTS {
                    self.sizeless.insert(attempt.id.to_owned(), address.clone());
                }
                let size = size.unwrap_or(0);
                self.bytes.1 += size;
                let of_domain = bounded(&mut self.recipient_domains, domain);
                of_domain.sent.count += 1;
                of_domain.sent.bytes += size;
                of_domain.delay += delay;
                of_domain.longest = of_domain.longest.max(delay);
                let volume = bounded(&mut self.recipients, address);
                volume.count += 1;
                volume.bytes += size;
            }
            Outcome::Deferred => {
                self.deferrals += 1;
                self.five(entry, 2);
                let open = self.message(entry, attempt.id);
                if !std::mem::replace(&mut open.was_deferred, true) {
                    self.deferred += 1;
                }
                let of_domain = bounded(&mut self.recipient_domains, domain);
                of_domain.deferred += 1;
                of_domain.longest = of_domain.longest.max(delay);
                // pflogsumm reads up to the first closing parenthesis.
                let text = until(attempt.reason, ")").map_or(attempt.reason, |(text, _)| text);
                let text = without_code(&said(text, 65)).to_owned();
                let text = text.strip_prefix("connect to ").unwrap_or(&text);
                note(&mut self.deferral_texts, entry.program, text);
            }
            Outcome::Bounced | Outcome::Expired => {
                self.bounced += 1;
                self.five(entry, 3);
                if let Some(of_domain) = self.recipient_domains.get_mut(&domain) {
                    of_domain.bounced += 1;
                }
                let text = said(attempt.reason, 66);
                note(&mut self.bounce_texts, attempt.relay, without_code(&text));
            }
            Outcome::SoftBounce | Outcome::Deliverable | Outcome::Undeliverable => {}
        }
    }

    fn refused(&mut self, entry: &Entry<'_>, refusal: &Refusal<'_>) {
        let from = client_domain(refusal.client);
        if entry.program == "cleanup" && refusal.word.starts_with("milter-") {
            let text =
                trimmed(&format!("from {}[{}]: {}", refusal.client.name, refusal.client.address, refusal.text), 64);
            return self.decided(entry, &refusal.word[7..], "cleanup", refusal.stage, &text);
        }
        let text = why(refusal);
        let whom = if text.starts_with("Sender address rejected:") {
            refusal.sender.filter(|sender| !sender.is_empty()).unwrap_or("<>").to_owned()
        } else if text.starts_with("Recipient address rejected:")
            || text == "User unknown"
            || text.starts_with("User unknown ")
        {
            refusal.recipient.filter(|recipient| !recipient.is_empty()).unwrap_or("<>").to_owned()
        } else {
            from
        };
        let stage = if refusal.stage.is_empty() { "CONNECT" } else { refusal.stage };
        self.decided(entry, refusal.word, stage, &text, &whom);
    }

    fn decided(&mut self, entry: &Entry<'_>, word: &str, group: &str, text: &str, whom: &str) {
        let table = match word {
            "reject" | "delay" => {
                self.rejected += 1;
                &mut self.reject_texts
            }
            "reject_warning" | "warning" => {
                self.warned += 1;
                &mut self.warn_texts
            }
            "hold" => {
                self.held += 1;
                &mut self.hold_texts
            }
            "discard" => {
                self.discarded += 1;
                &mut self.discard_texts
            }
            _ => return,
        };
        note(table.entry(group.to_owned()).or_default(), text, whom);
        self.five(entry, 4);
    }
}

fn day(entry: &Entry<'_>) -> (i16, u8, u8) {
    (entry.civil.year, entry.civil.month, entry.civil.day)
}

fn bounded<V: Default>(table: &mut HashMap<String, V>, name: String) -> &mut V {
    let name = if table.len() >= NAMES && !table.contains_key(&name) { MORE.to_owned() } else { name };
    table.entry(name).or_default()
}

fn texts<'t>(table: &'t mut HashMap<String, u64>, text: &str) -> &'t mut u64 {
    let text = if table.len() >= TEXTS && !table.contains_key(text) { MORE } else { text };
    table.entry(text.to_owned()).or_default()
}

fn note(table: &mut Details, group: &str, text: &str) {
    let group = if table.len() >= TEXTS && !table.contains_key(group) { MORE } else { group };
    *texts(table.entry(group.to_owned()).or_default(), text) += 1;
}

/// The domain in small letters; the local part as it is.
fn lower_domain(address: &str) -> String {
    match address.split_once('@') {
        Some((local, domain)) => format!("{local}@{}", domain.to_ascii_lowercase()),
        None => address.to_owned(),
    }
}

/// `mail.example.co.jp` is `example.co.jp`'s; a client without a name is its address.
fn client_domain(client: Client<'_>) -> String {
    if client.name.is_empty() || client.name == "unknown" {
        return client.address.to_owned();
    }
    let labels: Vec<&str> = client.name.split('.').collect();
    let kept = match labels[..] {
        // `host.dom` and shorter stay; so do other last labels than `com` and `co.jp` are like.
        [.., _, middle, last] if last.len() == 2 && matches!(middle.len(), 2 | 3) && labels.len() > 3 => 3,
        [.., _, _, last] if last.len() == 3 && labels.len() > 2 => 2,
        _ => return client.name.to_owned(),
    };
    labels[labels.len() - kept..].join(".").to_ascii_lowercase()
}

/// Cut to so many characters, with dots at the end.
fn trimmed(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(longest - 3).collect();
    cut.push_str("...");
    cut
}

/// The words that matter, at most so many characters: what stands before `said: ` and before colons is left out as long as the rest is too long.
pub fn said(text: &str, longest: usize) -> String {
    let mut text = text;
    while text.chars().count() > longest {
        if let Some(at) = text.rfind(" said: ") {
            text = &text[at + 7..];
        } else if let Some((_, rest)) = text.split_once(':') {
            text = rest.trim_start_matches(' ');
        } else {
            return trimmed(text, longest);
        }
    }
    text.to_owned()
}

fn without_code(text: &str) -> &str {
    match text.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', ..] => &text[4..],
        _ => text,
    }
}

/// The heart of a refusal's text: `Recipient address rejected: User unknown in local recipient table`.
fn why(refusal: &Refusal<'_>) -> String {
    let text = without_code(refusal.text);
    let text = match text.as_bytes() {
        [b'2' | b'4' | b'5', b'.', _, b'.', _, b' ', ..] => &text[6..],
        _ => text,
    };
    // What is refused stands in brackets first.
    let text = match text.strip_prefix('<').and_then(|rest| until(rest, ">: ")) {
        Some((_, rest)) => rest,
        None => text,
    };
    let text = text.strip_prefix("Service unavailable; ").unwrap_or(text);
    let end = text.find([';', ',']).unwrap_or(text.len());
    let text = &text[..end];
    // `Recipient address rejected: User unknown: more` ends at the second colon.
    for words in ["Sender address rejected: ", "Recipient address rejected: "] {
        if let Some(rest) = text.strip_prefix(words) {
            let end = rest.find(':').unwrap_or(rest.len());
            return format!("{words}{}", &rest[..end]);
        }
    }
    let hosts = ["Client host ", "client ", "Sender address "];
    match until(text, " blocked") {
        Some((who, rest)) if hosts.iter().any(|words| who.starts_with(words)) => format!("blocked{rest}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_of_clients() {
        for (name, wanted) in [
            ("mail.example.com", "example.com"),
            ("a.b.example.co.jp", "example.co.jp"),
            ("mail.example.co.jp", "example.co.jp"),
            ("example.com", "example.com"),
            ("Host.Example.ORG", "example.org"),
            ("localhost", "localhost"),
            ("a.b.info", "a.b.info"),
            ("unknown", "192.0.2.1"),
        ] {
            assert_eq!(client_domain(Client { name, address: "192.0.2.1" }), wanted);
        }
    }

    #[test]
    fn texts_are_cut() {
        assert_eq!(trimmed("abcdefghij", 6), "abc...");
        let long = format!("host a[1] said: 550 {} (in reply to x)", "y".repeat(60));
        assert!(said(&long, 66).len() <= 66);
        assert_eq!(said("short", 66), "short");
        let refusal = |text| Refusal { text, ..Refusal::default() };
        for (text, wanted) in [
            (
                "550 5.1.1 <u@v>: Recipient address rejected: User unknown in local recipient table",
                "Recipient address rejected: User unknown in local recipient table",
            ),
            ("454 4.7.1 <u@v>: Relay access denied", "Relay access denied"),
            ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using x", "blocked using x"),
            ("450 4.1.8 <a@b>: Sender address rejected: Domain not found", "Sender address rejected: Domain not found"),
        ] {
            assert_eq!(why(&refusal(text)), wanted, "{text}");
        }
    }
}

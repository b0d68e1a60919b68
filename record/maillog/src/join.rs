//! Messages followed through their lines.
//!
//! A queue ID names a message only for a time: Postfix's short form and qmail's numbers are used again. A message here
//! begins with the line that says so (`client=`, `uid=`, `new msg`), and ends with `removed` or `end msg`. Its name is
//! (host, queue ID); when a queue ID comes again, the host of the later message has the time of its beginning behind it
//! (`mx 2026-11-21T07:42:26Z`), so that no two histories become one. Reading the same lines again gives the same names,
//! because it is remembered when each short ID was first used ([`Join::state`]).
//!
//! Memory is bounded: messages that nothing was heard of for a month are forgotten, and of more than a million open ones
//! the older half.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};
use yamabiko_envelope::Timestamp;

use crate::entry::{Attempt, Client, Entry, Outcome, System, What};
use crate::head::Civil;

/// Open messages, at most.
const OPEN: usize = 1 << 20;
/// Short IDs whose first use is remembered, at most.
const SEEN: usize = 4 << 20;
/// Processes whose last encrypted connection is remembered, and deliveries of qmail under way, at most.
const SMALL: usize = 1 << 16;
/// After this nothing more is heard of a message.
const FORGET: u64 = 31 * 86_400 * 1_000_000;

/// A message, as far as its lines have told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The host, with the time of the beginning behind it where the queue ID was used before.
    pub host: String,
    /// As written.
    pub id: String,
    /// Envelope sender, external form.
    pub sender: Option<String>,
    /// Message-ID.
    pub message_id: String,
    /// `name[address]`, `local`, with ` user=login` behind it; empty when unknown.
    pub client: String,
    /// Bytes; 0 when unknown.
    pub size: u64,
    /// When it began; zero where its first line was not read.
    pub began: u64,
    /// When it was heard of last.
    pub seen: u64,
    /// It was told as [`Fact::Queued`].
    pub told: bool,
}

/// What a line means for a message.
#[derive(Clone, Copy, Debug)]
pub enum Fact<'a> {
    /// All that the lines before an attempt say of a message.
    Queued(&'a Message, Timestamp),
    /// One recipient, one attempt, with the encryption of the connection.
    Attempt(&'a Message, &'a Attempt<'a>, &'a str),
    /// Something else that happened to a message: notices, holds, expiry, refusals of it, removal.
    Other(&'a Message),
    /// A refusal of something that never had a queue ID.
    NoQueue,
}

/// Keys that are hashes already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Same>>;

/// What is kept between two runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Messages that are under way.
    pub open: Vec<Message>,
    /// Deliveries of qmail that are under way: host, number, message, recipient.
    pub deliveries: Vec<(String, u64, String, bool, String)>,
}

/// Follows messages.
#[derive(Default)]
pub struct Join {
    /// By (host, queue ID).
    open: ByHash<Message>,
    /// When a short ID was first used, in seconds.
    first: ByHash<u32>,
    /// The last encrypted connection of a process.
    tls: ByHash<(String, String)>,
    /// Deliveries of qmail: the message, remote or local, the recipient.
    deliveries: ByHash<(String, u64, String, bool, String)>,
    /// Text of qmail with its blanks.
    text: String,
    newest: u64,
}

fn hash(host: &str, id: &str) -> u64 {
    // FNV-1a with a mix at its end.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in host.bytes().chain([0xff]).chain(id.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

fn number_hash(host: &str, number: u64) -> u64 {
    hash(host, "").wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Is it an ID that will be used again?
fn is_short(system: System, id: &str) -> bool {
    match system {
        System::Postfix => !id.bytes().any(|byte| byte == b'z' || byte.is_ascii_lowercase()) && id.len() < 16,
        System::Qmail => true,
        System::Sendmail | System::Exim => false,
    }
}

impl Join {
    /// Goes on where another run stopped. `first` is what [`Join::first_uses`] gave.
    pub fn with(state: State, first: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let mut join = Self::default();
        for message in state.open {
            let host = message.host.split(' ').next().unwrap_or_default().to_owned();
            join.newest = join.newest.max(message.seen);
            join.open.insert(hash(&host, &message.id), message);
        }
        for delivery in state.deliveries {
            join.deliveries.insert(number_hash(&delivery.0, delivery.1), delivery);
        }
        join.first.extend(first);
        join
    }

    /// What has to be kept to go on later.
    pub fn state(&self) -> State {
        let mut open: Vec<Message> = self.open.values().cloned().collect();
        open.sort_unstable_by(|a, b| (a.seen, &a.id).cmp(&(b.seen, &b.id)));
        let mut deliveries: Vec<_> = self.deliveries.values().cloned().collect();
        deliveries.sort_unstable();
        State { open, deliveries }
    }

    /// Short IDs and when each was first used.
    pub fn first_uses(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.first.iter().map(|(key, second)| (*key, *second))
    }

    /// Messages under way.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Takes an entry, and gives what it means.
    pub fn entry(&mut self, entry: &Entry<'_>, give: &mut dyn FnMut(Fact<'_>, &Entry<'_>)) {
        self.newest = self.newest.max(entry.at.0);
        match entry.what {
            What::Accepted { id, client, sasl_username } => {
                let message = self.begin(entry, id, true);
                message.client = client_text(client, sasl_username);
            }
            What::PickedUp { id, sender, .. } => {
                let message = self.begin(entry, id, true);
                message.client = "local".to_owned();
                if message.sender.is_none() && !sender.is_empty() {
                    message.sender = Some(sender.to_owned());
                }
            }
            What::Identified { id, message_id, .. } => {
                // Notices and forwarded messages begin with this line; all others had one before it.
                let message = self.begin(entry, id, false);
                if message.message_id.is_empty() {
                    message_id.clone_into(&mut message.message_id);
                }
            }
            What::Queued { id, sender, size, message_id, client, sasl_username, begins, .. } => {
                let fresh = begins && entry.system != System::Qmail;
                let message = self.begin(entry, id, fresh);
                message.sender = Some(sender.to_owned());
                message.size = size.unwrap_or(message.size);
                if !message_id.is_empty() {
                    message_id.clone_into(&mut message.message_id);
                }
                if client != Client::default() {
                    message.client = client_text(client, sasl_username);
                }
                tell(message, entry, give);
            }
            What::Attempt(attempt) => self.attempt(entry, &attempt, give),
            What::QmailStart { delivery, id, remote, recipient } => {
                if self.deliveries.len() >= SMALL {
                    self.deliveries.clear();
                }
                let value = (entry.host.to_owned(), delivery, id.to_owned(), remote, recipient.to_owned());
                self.deliveries.insert(number_hash(entry.host, delivery), value);
            }
            What::QmailEnd { delivery, outcome, text } => self.qmail_end(entry, delivery, outcome, text, give),
            What::Tls(tls) if tls.outgoing => {
                if self.tls.len() >= SMALL {
                    self.tls.clear();
                }
                let how = format!("{} with cipher {}", tls.protocol, tls.cipher);
                self.tls.insert(number_hash(entry.host, u64::from(entry.pid)), (tls.peer.address.to_owned(), how));
            }
            What::Refused(refusal) if refusal.id.is_empty() => give(Fact::NoQueue, entry),
            What::Refused(refusal) => self.other(entry, refusal.id, give),
            What::Content(content) => self.other(entry, content.id, give),
            What::Noticed { id, .. } => self.other(entry, id, give),
            What::Expired { id, sender, .. } => {
                let message = self.begin(entry, id, false);
                if message.sender.is_none() {
                    message.sender = Some(sender.to_owned());
                }
                self.other(entry, id, give);
            }
            What::Operated { id, what } => {
                self.other(entry, id, give);
                if matches!(what, "removed" | "requeued") {
                    self.open.remove(&hash(entry.host, id));
                }
            }
            What::Removed { id, why } => {
                if !why.is_empty() {
                    self.other(entry, id, give);
                }
                self.open.remove(&hash(entry.host, id));
            }
            What::Connected(_)
            | What::Disconnected(_)
            | What::SessionEnded { .. }
            | What::Tls(_)
            | What::Trouble { .. }
            | What::ConnectFailed { .. }
            | What::Remark { .. }
            | What::Unknown => {}
        }
    }

    /// Tells what is known of messages that no attempt was seen of. For the end of the last log.
    pub fn finish(&mut self, give: &mut dyn FnMut(&Message)) {
        let mut open: Vec<&mut Message> = self.open.values_mut().filter(|message| !message.told).collect();
        open.sort_unstable_by(|a, b| (a.began, &a.id).cmp(&(b.began, &b.id)));
        for message in open {
            if message.began > 0 {
                give(message);
            }
        }
    }

    /// The message of an ID; `fresh` says that this line is the first of one.
    fn begin(&mut self, entry: &Entry<'_>, id: &str, fresh: bool) -> &mut Message {
        let key = hash(entry.host, id);
        if self.open.len() >= OPEN && !self.open.contains_key(&key) {
            self.forget();
        }
        let over = self.open.get(&key).is_some_and(|message| {
            // The first line of a message may come a little after others: cleanup and smtpd are two processes.
            let again =
                fresh && message.began.abs_diff(entry.at.0) > 2_000_000 && (message.told || !message.client.is_empty());
            again || entry.at.0.saturating_sub(message.seen) > FORGET
        });
        if over {
            self.open.remove(&key);
        }
        if !self.open.contains_key(&key) {
            let host = self.name(entry, id, key);
            self.open.insert(key, Message { host, id: id.to_owned(), began: entry.at.0, ..Message::default() });
        }
        let message = self.open.entry(key).or_default();
        message.seen = message.seen.max(entry.at.0);
        message
    }

    /// The host of a message, with the time behind it when its ID was used before.
    fn name(&mut self, entry: &Entry<'_>, id: &str, key: u64) -> String {
        if !is_short(entry.system, id) {
            return entry.host.to_owned();
        }
        let second = u32::try_from(entry.at.seconds()).unwrap_or(u32::MAX);
        let used_before = if entry.system == System::Qmail {
            // An inode: used again within seconds.
            true
        } else {
            if self.first.len() >= SEEN {
                // The older half of what is remembered.
                let mut seconds: Vec<u32> = self.first.values().copied().collect();
                let middle = seconds.len() / 2;
                let (_, half, _) = seconds.select_nth_unstable(middle);
                let half = *half;
                self.first.retain(|_, second| *second > half);
            }
            *self.first.entry(key).or_insert(second) != second
        };
        if !used_before {
            return entry.host.to_owned();
        }
        let Civil { year, month, day, hour, minute, second } = Civil::from_utc(i64::from(second));
        format!("{} {year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", entry.host)
    }

    fn forget(&mut self) {
        let newest = self.newest;
        self.open.retain(|_, message| newest.saturating_sub(message.seen) < FORGET);
        if self.open.len() >= OPEN {
            let mut seen: Vec<u64> = self.open.values().map(|message| message.seen).collect();
            let middle = seen.len() / 2;
            let (_, half, _) = seen.select_nth_unstable(middle);
            let half = *half;
            self.open.retain(|_, message| message.seen > half);
        }
    }

    fn attempt(&mut self, entry: &Entry<'_>, attempt: &Attempt<'_>, give: &mut dyn FnMut(Fact<'_>, &Entry<'_>)) {
        let tls = self.tls.get(&number_hash(entry.host, u64::from(entry.pid))).and_then(|(address, how)| {
            let same = attempt.relay.split_once('[').is_some_and(|(_, rest)| rest.split(']').next() == Some(address));
            same.then(|| how.clone())
        });
        let sender = attempt.sender;
        let message = self.begin(entry, attempt.id, false);
        if message.sender.is_none() && !sender.is_empty() {
            message.sender = Some(sender.to_owned());
        }
        tell(message, entry, give);
        let tls = tls.as_deref().unwrap_or(if entry.system == System::Exim { attempt.tls } else { "" });
        give(Fact::Attempt(message, attempt, tls), entry);
    }

    fn qmail_end(
        &mut self,
        entry: &Entry<'_>,
        delivery: u64,
        outcome: Outcome,
        text: &str,
        give: &mut dyn FnMut(Fact<'_>, &Entry<'_>),
    ) {
        // A delivery whose beginning was not read: nobody knows whose it is.
        let Some((_, _, id, remote, recipient)) = self.deliveries.remove(&number_hash(entry.host, delivery)) else {
            return;
        };
        let mut reason = std::mem::take(&mut self.text);
        reason.clear();
        reason.extend(text.chars().map(|c| if c == '_' { ' ' } else { c }));
        let said = crate::reply::said(System::Qmail, &reason);
        let relay = if !remote {
            "local".to_owned()
        } else if said.host.address.is_empty() {
            "none".to_owned()
        } else {
            format!("{0}[{0}]", said.host.address)
        };
        let attempt = Attempt {
            id: &id,
            recipient: &recipient,
            original: "",
            sender: "",
            relay: &relay,
            connection_use: 1,
            delay: None,
            delays: None,
            tls: "",
            dsn: status(&reason),
            outcome,
            reason: &reason,
        };
        self.attempt(entry, &attempt, give);
        self.text = reason;
    }

    fn other(&mut self, entry: &Entry<'_>, id: &str, give: &mut dyn FnMut(Fact<'_>, &Entry<'_>)) {
        let message = self.begin(entry, id, false);
        give(Fact::Other(message), entry);
    }
}

/// qmail's status: `(#5.1.1)`.
fn status(text: &str) -> &str {
    crate::take::until(text, "(#").and_then(|(_, rest)| crate::take::until(rest, ")")).map_or("", |(status, _)| status)
}

fn tell(message: &mut Message, entry: &Entry<'_>, give: &mut dyn FnMut(Fact<'_>, &Entry<'_>)) {
    if !std::mem::replace(&mut message.told, true) {
        let at = if message.began == 0 { entry.at } else { Timestamp(message.began) };
        give(Fact::Queued(message, at), entry);
    }
}

fn client_text(client: Client<'_>, login: &str) -> String {
    let mut text =
        if client.address.is_empty() { client.name.to_owned() } else { format!("{}[{}]", client.name, client.address) };
    if !login.is_empty() {
        text.push_str(" user=");
        text.push_str(login);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Lines;
    use crate::reader::Reader;
    use jiff::tz::TimeZone;

    fn facts(join: &mut Join, text: &str) -> Vec<String> {
        let mut reader = Reader::new(TimeZone::UTC, Timestamp::from_seconds(1_796_000_000), None, "q");
        let mut lines = Lines::new(text.as_bytes(), 0);
        let mut out = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            reader.line(&line, &mut |entry| {
                join.entry(entry, &mut |fact, entry| {
                    out.push(match fact {
                        Fact::Queued(m, _) => format!(
                            "queued {} {} {:?} {} {} {}",
                            m.host, m.id, m.sender, m.message_id, m.client, m.size
                        ),
                        Fact::Attempt(m, a, tls) => format!(
                            "{:?} {} {} {} {:?} {} {tls}",
                            a.outcome, m.host, m.id, a.recipient, m.sender, a.relay
                        ),
                        Fact::Other(m) => format!("other {} {} {}", m.host, m.id, entry.program),
                        Fact::NoQueue => "noqueue".to_owned(),
                    });
                });
            });
        }
        out
    }

    const FIRST: &str = "\
Nov 21 10:00:00 mx postfix/smtpd[1]: 9C5269BCFE4: client=c[192.0.2.1], sasl_username=bob
Nov 21 10:00:00 mx postfix/cleanup[2]: 9C5269BCFE4: message-id=<1@x>
Nov 21 10:00:00 mx postfix/qmgr[3]: 9C5269BCFE4: from=<s@x>, size=10, nrcpt=1 (queue active)
Nov 21 10:00:00 mx postfix/smtp[4]: Trusted TLS connection established to m[192.0.2.9]:25: TLSv1.3 with cipher C (1)
Nov 21 10:00:01 mx postfix/smtp[4]: 9C5269BCFE4: to=<a@b>, relay=m[192.0.2.9]:25, delay=1, dsn=2.0.0, status=sent (250 ok)
Nov 21 10:00:01 mx postfix/qmgr[3]: 9C5269BCFE4: removed
";
    const AGAIN: &str = "\
Nov 21 12:00:00 mx postfix/pickup[1]: 9C5269BCFE4: uid=0 from=<root>
Nov 21 12:00:00 mx postfix/qmgr[3]: 9C5269BCFE4: from=<root@x>, size=20, nrcpt=1 (queue active)
Nov 21 12:00:01 mx postfix/local[5]: 9C5269BCFE4: to=<z@b>, relay=local, delay=1, dsn=2.0.0, status=sent (delivered to mailbox)
";

    #[test]
    fn an_id_that_is_used_again_is_another_message() {
        let mut join = Join::default();
        let first = facts(&mut join, FIRST);
        assert_eq!(
            first,
            [
                "queued mx 9C5269BCFE4 Some(\"s@x\") <1@x> c[192.0.2.1] user=bob 10",
                "Sent mx 9C5269BCFE4 a@b Some(\"s@x\") m[192.0.2.9]:25 TLSv1.3 with cipher C",
            ]
        );
        let again = facts(&mut join, AGAIN);
        assert_eq!(
            again,
            [
                "queued mx 2026-11-21T12:00:00Z 9C5269BCFE4 Some(\"root@x\")  local 20",
                "Sent mx 2026-11-21T12:00:00Z 9C5269BCFE4 z@b Some(\"root@x\") local ",
            ]
        );
        // Both once more, by another run: the same names.
        let mut later = Join::with(join.state(), join.first_uses().collect::<Vec<_>>());
        assert_eq!(facts(&mut later, FIRST), first);
        assert_eq!(facts(&mut later, AGAIN), again);
        // The same ID on another host is another message.
        let there = facts(&mut later, &FIRST.replace(" mx ", " mx2 "));
        assert!(there[0].starts_with("queued mx2 9C5269BCFE4"), "{there:?}");
    }

    #[test]
    fn a_run_that_stops_in_the_middle_is_gone_on_with() {
        let lines: Vec<&str> = FIRST.split_inclusive('\n').collect();
        for stop in 0..lines.len() {
            let mut join = Join::default();
            let mut seen = facts(&mut join, &lines[..stop].concat());
            let mut join = Join::with(join.state(), join.first_uses().collect::<Vec<_>>());
            seen.extend(facts(&mut join, &lines[stop..].concat()));
            assert_eq!(seen.len(), 2, "{stop}: {seen:?}");
            assert!(
                seen[0].starts_with("queued mx 9C5269BCFE4 Some(\"s@x\") <1@x> c[192.0.2.1] user=bob 10"),
                "{stop}: {seen:?}"
            );
        }
    }

    #[test]
    fn qmail_deliveries_are_put_together() {
        let text = "\
@400000003b4a39c23294b13c new msg 5
@400000003b4a39c23294b13c info msg 5: bytes 99 from <s@x> qp 1 uid 2
@400000003b4a39c23294b13c starting delivery 1: msg 5 to remote a@b
@400000003b4a39c33294b13c starting delivery 2: msg 5 to local me@here
@400000003b4a39c33294b13c delivery 1: failure: 192.0.2.1_does_not_like_recipient./Remote_host_said:_550_no/Giving_up_on_192.0.2.1./
@400000003b4a39c33294b13c delivery 2: success: did_1+0+0/
@400000003b4a39c33294b13c delivery 3: success: whose/
@400000003b4a39c33294b13c bounce msg 5 qp 9
@400000003b4a39c33294b13c end msg 5
@400000003b4a39c43294b13c new msg 5
@400000003b4a39c43294b13c info msg 5: bytes 7 from <> qp 1 uid 2
";
        assert_eq!(
            facts(&mut Join::default(), text),
            [
                "queued q 2001-07-09T23:09:44Z 5 Some(\"s@x\")   99",
                "Bounced q 2001-07-09T23:09:44Z 5 a@b Some(\"s@x\") 192.0.2.1[192.0.2.1] ",
                "Sent q 2001-07-09T23:09:44Z 5 me@here Some(\"s@x\") local ",
                "other q 2001-07-09T23:09:44Z 5 qmail",
                "queued q 2001-07-09T23:09:46Z 5 Some(\"\")   7",
            ]
        );
    }

    #[test]
    fn messages_that_were_never_tried_are_told_at_the_end() {
        let mut join = Join::default();
        facts(&mut join, FIRST.lines().next().unwrap());
        let mut told = Vec::new();
        join.finish(&mut |message| told.push(message.client.clone()));
        assert_eq!(told, ["c[192.0.2.1] user=bob"]);
    }
}

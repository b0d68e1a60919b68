//! A message as a file that a person can read: its envelope as header fields, then its content as it is.
//!
//! Large messages and those that stay long are kept like this, `yamabiko queue export` writes it and `import` takes it
//! back, so nobody is ever locked in: any mail program opens such a file, and the fields tell what a shell script needs.
//!
//! ```text
//! X-Yamabiko-Message: 4Zb1Wx3Q2hz1 version=1
//! X-Yamabiko-State: arrival=1795280034.000000 next=1795280334.000000 attempts=2 (2026-11-21 16:53:54 UTC)
//! X-Yamabiko-Sender: <someone@example.com> size=312 body=8bitmime
//! X-Yamabiko-Recipient: <other@example.net> state=deferred status=4.4.1 reason="connection timed out"
//! X-Yamabiko-Content: length=312 crc32c=9ae0daaf
//! Received: ...
//! ```
//!
//! The fields end with `X-Yamabiko-Content`; the content begins with the next byte. A value with blanks stands in
//! quotes, `\"`, `\\` and `\x0a` as in C. A line that begins with a blank continues the one before. What is in parentheses is for
//! people. What is not there has its default; keys that are not known are passed over.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use yamabiko_envelope::{
    BodyType, ClientAttributes, Envelope, Failure, Notify, QueueId, Recipient, RecipientState, Ret, RewriteContext,
    SaslIdentity, Timestamp, TlsWish, Trace, VerpDelimiters,
};
use yamabiko_status::EnhancedStatus;

use crate::Flags;
use crate::codec::Standing;

const MESSAGE: &str = "X-Yamabiko-Message";
const STATE: &str = "X-Yamabiko-State";
const SENDER: &str = "X-Yamabiko-Sender";
const CLIENT: &str = "X-Yamabiko-Client";
const LOGIN: &str = "X-Yamabiko-Login";
const RECIPIENT: &str = "X-Yamabiko-Recipient";
const CONTENT: &str = "X-Yamabiko-Content";
/// A line is continued on the next when it is longer than this.
const WIDE: usize = 200;

/// What the fields say.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The envelope, with the states of the moment in which it was written.
    pub envelope: Envelope,
    /// Attempts, next attempt, marks.
    pub standing: Standing,
    /// Bytes of content.
    pub content_len: u64,
    /// CRC-32C of those.
    pub content_crc: u32,
    /// Bytes of the fields: the content begins there.
    pub len: usize,
}

/// Why a file is not one of these: the line, from 1, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The line.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Unreadable {}

// ---- writing

/// Writes fields, a value at a time.
struct Fields {
    out: String,
    /// Where the line began.
    line: usize,
}

impl Fields {
    fn begin(&mut self, name: &str, first: &str) {
        self.line = self.out.len();
        self.out.push_str(name);
        self.out.push_str(": ");
        self.out.push_str(first);
    }
    fn end(&mut self) {
        self.out.push('\n');
    }
    /// `key=value`, unless the value is empty.
    fn pair(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if self.out.len() - self.line > WIDE {
            self.out.push('\n');
            self.line = self.out.len();
            self.out.push('\t');
        } else if !self.out.ends_with(": ") {
            self.out.push(' ');
        }
        self.out.push_str(key);
        self.out.push('=');
        self.out.push_str(&quoted(value));
    }
    fn number(&mut self, key: &str, value: u64) {
        if value != 0 {
            self.pair(key, &value.to_string());
        }
    }
}

fn plain(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !matches!(c, '"' | '\\' | '(' | ')' | '<' | '>')
}

/// In quotes, if it has to be.
fn quoted(value: &str) -> String {
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("\"{}\"", escaped(value, '"'))
    }
}

fn escaped(value: &str, end: char) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == end => {
                out.push('\\');
                out.push(c);
            }
            // Below 256 all of them: these are the C0 and C1 controls. Other blanks are no trouble in quotes.
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn bracketed(address: &str) -> String {
    format!("<{}>", escaped(address, '>'))
}

fn moment(at: Timestamp) -> String {
    format!("{}.{:06}", at.seconds(), at.0 % 1_000_000)
}

/// `2026-11-21 16:53:54 UTC`, for people.
pub fn calendar(at: Timestamp) -> String {
    let (days, rest) = (at.seconds() / 86_400, at.seconds() % 86_400);
    // Days to civil date over the 400 years that repeat (146097 days), years beginning in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year_of_era + later;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The fields of a message. Their length does not depend on the checksum.
pub fn head(envelope: &Envelope, standing: &Standing, content_len: u64, content_crc: u32) -> String {
    // Taken apart by name, so that a field added to the envelope cannot be forgotten here.
    let Envelope {
        queue_id,
        arrival,
        sender,
        envid,
        ret,
        body,
        smtputf8,
        tls,
        context,
        client,
        sasl,
        filter,
        verp,
        trace,
        size,
        message_id,
        recipients,
    } = envelope;
    let mut fields = Fields { out: String::with_capacity(1024), line: 0 };
    fields.begin(MESSAGE, &queue_id.to_string());
    fields.pair("version", "1");
    fields.end();
    fields.begin(STATE, "");
    fields.pair("arrival", &moment(*arrival));
    fields.pair("next", &moment(standing.next_attempt));
    fields.number("attempts", u64::from(standing.attempts));
    let flags = standing.flags;
    let marks = [("hold", flags.hold()), ("expire", flags.expire()), ("warned", flags.warned())];
    let marks: Vec<&str> = marks.into_iter().filter_map(|(name, on)| on.then_some(name)).collect();
    fields.pair("marks", &marks.join(","));
    let _ = write!(fields.out, " ({}, to be tried {})", calendar(*arrival), calendar(standing.next_attempt));
    fields.end();
    fields.begin(SENDER, &bracketed(sender));
    fields.number("size", *size);
    fields.pair("envid", envid);
    fields.pair("ret", ret.map_or("", |ret| if ret == Ret::Full { "full" } else { "hdrs" }));
    let text = match body {
        BodyType::Unspecified => "",
        BodyType::SevenBit => "7bit",
        BodyType::EightBitMime => "8bitmime",
    };
    fields.pair("body", text);
    fields.pair("smtputf8", if *smtputf8 { "yes" } else { "" });
    let wish = match tls {
        TlsWish::Policy => "",
        TlsWish::Required => "required",
        TlsWish::NotRequired => "not-required",
    };
    fields.pair("tls", wish);
    fields.pair("context", if *context == RewriteContext::Remote { "remote" } else { "" });
    fields.pair("filter", filter);
    fields.pair("verp", &verp.map_or(String::new(), |VerpDelimiters { first, second }| format!("{first}{second}")));
    fields.pair("trace", TRACES.iter().find(|(_, t)| t == trace).map_or("", |(name, _)| name));
    fields.pair("message-id", message_id);
    fields.end();
    if *client != ClientAttributes::default() {
        put_client(&mut fields, client);
    }
    if let Some(SaslIdentity { method, username, sender }) = sasl {
        fields.begin(LOGIN, "");
        fields.pair("method", method);
        fields.pair("username", username);
        fields.pair("sender", sender);
        fields.end();
    }
    recipients.iter().for_each(|recipient| put_recipient(&mut fields, recipient));
    fields.begin(CONTENT, "");
    fields.pair("length", &content_len.to_string());
    fields.pair("crc32c", &format!("{content_crc:08x}"));
    fields.end();
    fields.out
}

const TRACES: [(&str, Trace); 3] =
    [("record", Trace::Record), ("probe-report", Trace::ProbeReport), ("probe", Trace::Probe)];

fn put_client(fields: &mut Fields, client: &ClientAttributes) {
    let ClientAttributes { name, reverse_name, address, port, helo, protocol, ident, server } = client;
    fields.begin(CLIENT, "");
    fields.pair("name", name);
    fields.pair("reverse", reverse_name);
    fields.pair("address", &address.map_or(String::new(), |address| address.to_string()));
    fields.number("port", u64::from(*port));
    fields.pair("helo", helo);
    fields.pair("protocol", protocol);
    fields.pair("ident", ident);
    fields.pair("server", &server.map_or(String::new(), |server| server.to_string()));
    fields.end();
}

fn put_recipient(fields: &mut Fields, recipient: &Recipient) {
    let Recipient { address, original, orcpt, notify, state } = recipient;
    fields.begin(RECIPIENT, &bracketed(address));
    fields.pair("original", original);
    fields.pair("orcpt", orcpt);
    let Notify { never, success, failure, delay } = *notify;
    let wishes = [("never", never), ("success", success), ("failure", failure), ("delay", delay)];
    let wishes: Vec<&str> = wishes.into_iter().filter_map(|(name, on)| on.then_some(name)).collect();
    fields.pair("notify", &wishes.join(","));
    let (name, failure) = match state {
        RecipientState::Pending => ("", None),
        RecipientState::Deferred(failure) => ("deferred", Some(failure)),
        RecipientState::Failed(failure) => ("failed", Some(failure)),
        RecipientState::Done => ("done", None),
    };
    fields.pair("state", name);
    if let Some(failure) = failure {
        let Failure { status, reason, diagnostic, remote_mta, relay, settled } = &**failure;
        fields.pair("status", &status.to_string());
        fields.pair("reason", reason);
        fields.pair("diagnostic", diagnostic);
        fields.pair("remote", remote_mta);
        fields.pair("relay", relay);
        settled.iter().for_each(|member| fields.pair("settled", member));
    }
    fields.end();
}

// ---- reading

/// A field's value, taken apart word by word.
struct Words<'a> {
    rest: &'a str,
    line: usize,
}

type Pair<'a> = (&'a str, String);

impl<'a> Words<'a> {
    fn wrong<T>(&self, what: &'static str) -> Result<T, Unreadable> {
        Err(Unreadable { line: self.line, what })
    }
    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n']);
        while self.rest.starts_with('(') {
            let end = self.rest.find(')').map_or(self.rest.len(), |at| at + 1);
            self.rest = self.rest[end..].trim_start_matches([' ', '\t', '\n']);
        }
    }
    /// Text up to `end`, which is taken off.
    fn until(&mut self, end: char) -> Result<String, Unreadable> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == end => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, 'x')) => {
                        let digits = [chars.next(), chars.next()].map(|c| c.and_then(|(_, c)| c.to_digit(16)));
                        match digits {
                            // Two digits are below 256.
                            [Some(high), Some(low)] => out.push(char::from((high * 16 + low) as u8)),
                            _ => return self.wrong("two digits are due after \\x"),
                        }
                    }
                    Some((_, c)) => out.push(c),
                    None => break,
                },
                c => out.push(c),
            }
        }
        self.wrong("a quote or bracket has no end")
    }
    /// A word without key.
    fn word(&mut self) -> &'a str {
        self.skip();
        let end = self.rest.find([' ', '\t', '\n']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
    fn address(&mut self) -> Result<String, Unreadable> {
        self.skip();
        match self.rest.strip_prefix('<') {
            Some(rest) => {
                self.rest = rest;
                self.until('>')
            }
            None => self.wrong("an address in <> is due"),
        }
    }
    fn pair(&mut self) -> Result<Option<Pair<'a>>, Unreadable> {
        self.skip();
        if self.rest.is_empty() {
            return Ok(None);
        }
        let Some((key, rest)) = self.rest.split_once('=') else { return self.wrong("key=value is due") };
        self.rest = rest;
        if let Some(rest) = rest.strip_prefix('"') {
            self.rest = rest;
            return Ok(Some((key, self.until('"')?)));
        }
        let end = rest.find([' ', '\t', '\n']).unwrap_or(rest.len());
        let (value, rest) = rest.split_at(end);
        self.rest = rest;
        Ok(Some((key, value.to_owned())))
    }
    fn parsed<T: std::str::FromStr>(&self, value: &str, what: &'static str) -> Result<T, Unreadable> {
        value.parse().or_else(|_| self.wrong(what))
    }
    fn chosen<T: Copy>(&self, value: &str, choices: &[(&str, T)]) -> Result<T, Unreadable> {
        match choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(value)) {
            Some((_, choice)) => Ok(*choice),
            None => self.wrong("a value that is none of its key's"),
        }
    }
    fn moment(&self, value: &str) -> Result<Timestamp, Unreadable> {
        let (seconds, micros) = value.split_once('.').unwrap_or((value, "0"));
        let seconds: u64 = self.parsed(seconds, "a time in seconds is due")?;
        if micros.is_empty() || micros.len() > 6 || !micros.bytes().all(|b| b.is_ascii_digit()) {
            return self.wrong("a time in seconds is due");
        }
        let micros: u64 = self.parsed(&format!("{micros:0<6}"), "a time in seconds is due")?;
        match seconds.checked_mul(1_000_000).and_then(|all| all.checked_add(micros)) {
            Some(all) => Ok(Timestamp(all)),
            None => self.wrong("a time is out of range"),
        }
    }
}

/// Reads the fields at the beginning of a file. `bytes` may hold as much of the content as it likes; of a file whose
/// fields are not all there the error's line is the one after the last. Linear in the length of the fields.
pub fn parse(bytes: &[u8]) -> Result<Head, Unreadable> {
    let mut envelope = Envelope::new(QueueId::new(0, 0), Timestamp(0), "");
    let mut standing = Standing::default();
    let (mut at, mut line, mut sender) = (0, 1, false);
    loop {
        let wrong = |what| Err(Unreadable { line, what });
        let end = match field_end(bytes, at) {
            Some(end) => end,
            None => return wrong("the field X-Yamabiko-Content is missing"),
        };
        // The end is one of the positions of `bytes`.
        let Ok(text) = std::str::from_utf8(&bytes[at..end]) else { return wrong("text that is not UTF-8") };
        let Some((name, value)) = text.split_once(':') else { return wrong("a field X-Yamabiko-... is due") };
        let mut words = Words { rest: value.trim_end_matches('\n'), line };
        if line == 1 {
            if name != MESSAGE {
                return wrong("the field X-Yamabiko-Message is due");
            }
            envelope.queue_id =
                words.parsed(words.rest.split_ascii_whitespace().next().unwrap_or_default(), "a queue ID is due")?;
            words.word();
        }
        match name {
            MESSAGE if line == 1 => take_version(&mut words)?,
            STATE => take_state(&mut words, &mut envelope, &mut standing)?,
            SENDER => {
                sender = true;
                envelope.sender = words.address()?;
                take_sender(&mut words, &mut envelope)?;
            }
            CLIENT => envelope.client = take_client(&mut words)?,
            LOGIN => envelope.sasl = Some(take_login(&mut words)?),
            RECIPIENT => envelope.recipients.push(take_recipient(&mut words)?),
            CONTENT if !sender => return wrong("the field X-Yamabiko-Sender is missing"),
            CONTENT => {
                let (content_len, content_crc) = take_content(&mut words)?;
                return Ok(Head { envelope, standing, content_len, content_crc, len: end });
            }
            _ => return wrong("a field X-Yamabiko-... is due"),
        }
        line += text.matches('\n').count();
        at = end;
    }
}

/// The end of the field that begins at `at`: behind the line end that no blank follows. None when it is not there.
fn field_end(bytes: &[u8], at: usize) -> Option<usize> {
    let content = bytes.get(at..)?.starts_with(CONTENT.as_bytes());
    let mut from = at;
    loop {
        let end = from + memchr::memchr(b'\n', bytes.get(from..)?)? + 1;
        match bytes.get(end) {
            // The last field is one line: what follows is the content, whatever it begins with.
            _ if content => return Some(end),
            Some(b' ' | b'\t') => from = end,
            _ => return Some(end),
        }
    }
}

fn take_version(words: &mut Words<'_>) -> Result<(), Unreadable> {
    while let Some((key, value)) = words.pair()? {
        if key == "version" && value != "1" {
            return words.wrong("a version of this format that is not known here");
        }
    }
    Ok(())
}

fn take_state(words: &mut Words<'_>, envelope: &mut Envelope, standing: &mut Standing) -> Result<(), Unreadable> {
    while let Some((key, value)) = words.pair()? {
        match key {
            "arrival" => envelope.arrival = words.moment(&value)?,
            "next" => standing.next_attempt = words.moment(&value)?,
            "attempts" => standing.attempts = words.parsed(&value, "a number up to 65535 is due")?,
            "marks" => {
                for mark in value.split(',') {
                    let flags: Flags = standing.flags;
                    standing.flags = words.chosen(
                        mark,
                        &[
                            ("hold", flags.with_hold(true)),
                            ("expire", flags.with_expire(true)),
                            ("warned", flags.with_warned(true)),
                        ],
                    )?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn take_sender(words: &mut Words<'_>, envelope: &mut Envelope) -> Result<(), Unreadable> {
    while let Some((key, value)) = words.pair()? {
        match key {
            "size" => envelope.size = words.parsed(&value, "a number is due")?,
            "envid" => envelope.envid = value,
            "ret" => envelope.ret = Some(words.chosen(&value, &[("full", Ret::Full), ("hdrs", Ret::Headers)])?),
            "body" => {
                let choices = [("7bit", BodyType::SevenBit), ("8bitmime", BodyType::EightBitMime)];
                envelope.body = words.chosen(&value, &choices)?;
            }
            "smtputf8" => envelope.smtputf8 = words.chosen(&value, &[("yes", true), ("no", false)])?,
            "tls" => {
                let choices = [("required", TlsWish::Required), ("not-required", TlsWish::NotRequired)];
                envelope.tls = words.chosen(&value, &choices)?;
            }
            "context" => {
                let choices = [("remote", RewriteContext::Remote), ("local", RewriteContext::Local)];
                envelope.context = words.chosen(&value, &choices)?;
            }
            "filter" => envelope.filter = value,
            "verp" => {
                let mut chars = value.chars();
                match (chars.next(), chars.next(), chars.next()) {
                    (Some(first), Some(second), None) => envelope.verp = Some(VerpDelimiters { first, second }),
                    _ => return words.wrong("two characters are due"),
                }
            }
            "trace" => envelope.trace = words.chosen(&value, &TRACES)?,
            "message-id" => envelope.message_id = value,
            _ => {}
        }
    }
    Ok(())
}

fn take_client(words: &mut Words<'_>) -> Result<ClientAttributes, Unreadable> {
    let mut client = ClientAttributes::default();
    while let Some((key, value)) = words.pair()? {
        match key {
            "name" => client.name = value,
            "reverse" => client.reverse_name = value,
            "address" => client.address = Some(words.parsed::<IpAddr>(&value, "an IP address is due")?),
            "port" => client.port = words.parsed(&value, "a port is due")?,
            "helo" => client.helo = value,
            "protocol" => client.protocol = value,
            "ident" => client.ident = value,
            "server" => client.server = Some(words.parsed(&value, "an IP address with port is due")?),
            _ => {}
        }
    }
    Ok(client)
}

fn take_login(words: &mut Words<'_>) -> Result<SaslIdentity, Unreadable> {
    let mut login = SaslIdentity::default();
    while let Some((key, value)) = words.pair()? {
        match key {
            "method" => login.method = value,
            "username" => login.username = value,
            "sender" => login.sender = value,
            _ => {}
        }
    }
    Ok(login)
}

fn take_recipient(words: &mut Words<'_>) -> Result<Recipient, Unreadable> {
    let mut recipient = Recipient { address: words.address()?, ..Recipient::default() };
    let mut state = String::new();
    let mut failure = Failure {
        status: EnhancedStatus::transient(0, 0),
        reason: String::new(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: String::new(),
        settled: Vec::new(),
    };
    while let Some((key, value)) = words.pair()? {
        match key {
            "original" => recipient.original = value,
            "orcpt" => recipient.orcpt = value,
            "notify" => {
                for wish in value.split(',') {
                    let notify = &mut recipient.notify;
                    match wish {
                        "never" => notify.never = true,
                        "success" => notify.success = true,
                        "failure" => notify.failure = true,
                        "delay" => notify.delay = true,
                        _ => return words.wrong("a value that is none of its key's"),
                    }
                }
            }
            "state" => state = value,
            "status" => failure.status = words.parsed(&value, "a status such as 4.4.1 is due")?,
            "reason" => failure.reason = value,
            "diagnostic" => failure.diagnostic = value,
            "remote" => failure.remote_mta = value,
            "relay" => failure.relay = value,
            "settled" if !value.is_empty() => failure.settled.push(value),
            _ => {}
        }
    }
    recipient.state = match state.as_str() {
        "" | "pending" => RecipientState::Pending,
        "deferred" => RecipientState::Deferred(Box::new(failure)),
        "failed" => RecipientState::Failed(Box::new(failure)),
        "done" => RecipientState::Done,
        _ => return words.wrong("a state that is not known"),
    };
    Ok(recipient)
}

fn take_content(words: &mut Words<'_>) -> Result<(u64, u32), Unreadable> {
    let (mut len, mut crc) = (None, None);
    while let Some((key, value)) = words.pair()? {
        match key {
            "length" => len = Some(words.parsed(&value, "a number is due")?),
            "crc32c" => crc = u32::from_str_radix(&value, 16).ok(),
            _ => {}
        }
    }
    match (len, crc) {
        (Some(len), Some(crc)) => Ok((len, crc)),
        _ => words.wrong("length and crc32c are due"),
    }
}

//! Kinds of receivers, from a text that people can read and add to.
//!
//! ```text
//! # What is not said is as in [plain].
//! [docomo]
//! domains = docomo.ne.jp
//! sessions = 1
//! unknown = RCPT 550 Unknown user ${recipient}
//! ```
//!
//! Settings: `domains` (names it answers for), `hosts` (how many mail exchangers), `exchangers` (whose hosts they are: the end of
//! their names), `sessions` (of one client at once; 0:
//! any number) and `sessions_refusal`, `messages` (in one session; 0: any number) and `messages_refusal`, `recipients`
//! (of one message) and `recipients_refusal`, `rate` (`100/60s`: messages of one client) and `rate_refusal`, `delay`
//! (before each reply), `connect` (`accepts`, `dead`, `mute`, `resets`, `refuses REPLY`), `starttls` (`no`, `works` with
//! a certificate made at the start, `breaks`, `refuses`), `greeting`, `accepted`, and the replies of [`REPLIES`]. A reply about
//! a recipient begins with the stage at which it is given: `MAIL`, `RCPT`, `DATA` or `DOT` (after the message).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::behaviour::REPLIES;

/// The profiles that come with the program.
pub const SHIPPED: &str = include_str!("profiles.conf");

/// When a reply is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// To MAIL.
    Mail,
    /// To RCPT.
    Rcpt,
    /// To DATA.
    Data,
    /// To the message.
    Dot,
}

/// What comes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connect {
    /// A conversation.
    Accepts,
    /// Nobody listens.
    Dead,
    /// Nothing is ever said.
    Mute,
    /// Closed at once.
    Resets,
    /// Closed with this reply in place of the greeting.
    Refuses(String),
}

/// What comes of STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    /// It is not offered.
    No,
    /// Offered, with a certificate made at the start.
    Works,
    /// Offered; then the handshake fails.
    Breaks,
    /// Offered, and refused with 454.
    Refuses,
}

/// A kind of receiver.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Domains it takes mail for.
    pub domains: Vec<String>,
    /// How many mail exchangers share the limits.
    pub hosts: u8,
    /// The end of their names.
    pub exchangers: String,
    /// Sessions of one client at once; 0: any number.
    pub sessions: u32,
    /// In place of the greeting of one session too many.
    pub sessions_refusal: String,
    /// Messages in one session; 0: any number.
    pub messages: u32,
    /// To the MAIL of one message too many.
    pub messages_refusal: String,
    /// Recipients of one message; 0: any number.
    pub recipients: u32,
    /// To one recipient too many.
    pub recipients_refusal: String,
    /// Messages of one client in so much time.
    pub rate: Option<(u32, Duration)>,
    /// When and in which words a message too many is refused.
    pub rate_refusal: (When, String),
    /// Before each reply.
    pub delay: Duration,
    /// What comes of a connection.
    pub connect: Connect,
    /// What comes of STARTTLS.
    pub starttls: StartTls,
    /// The greeting, without 220.
    pub greeting: String,
    /// To a message that is taken; `${id}` is what the receiver calls it.
    pub accepted: String,
    replies: BTreeMap<&'static str, (When, String)>,
}

/// A line that says nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl Profile {
    fn plain(name: &str) -> Self {
        let replies = REPLIES.iter().map(|(name, text)| {
            // The table's own texts begin with a stage; a test reads them all.
            (*name, reply(text).unwrap_or((When::Rcpt, String::new())))
        });
        Self {
            name: name.to_owned(),
            domains: Vec::new(),
            hosts: 2,
            exchangers: format!("{name}-sim.test"),
            sessions: 0,
            sessions_refusal: "421 4.7.0 Too many connections from your host".into(),
            messages: 0,
            messages_refusal: "421 4.7.0 Too many messages in one session".into(),
            recipients: 100,
            recipients_refusal: "452 4.5.3 Too many recipients".into(),
            rate: None,
            rate_refusal: (When::Mail, "450 4.7.1 Too many messages, slow down".into()),
            delay: Duration::ZERO,
            connect: Connect::Accepts,
            starttls: StartTls::No,
            greeting: "${host} ESMTP".into(),
            accepted: "250 2.0.0 Ok: queued as ${id}".into(),
            replies: replies.collect(),
        }
    }

    /// When and how this receiver words one of [`REPLIES`].
    pub fn reply(&self, name: &str) -> (When, &str) {
        // Every name of the table is there from the beginning.
        self.replies.get(name).map_or((When::Rcpt, "550 5.1.1 refused"), |(when, text)| (*when, text))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u32>().map_err(|_| format!("{name} wants a number, not {value:?}"));
        match name {
            "domains" => {
                let names = value.split([',', ' ', '\t']).filter(|name| !name.is_empty());
                self.domains = names.map(str::to_ascii_lowercase).collect();
            }
            "hosts" => {
                self.hosts = number()?.clamp(1, 9) as u8;
            }
            "exchangers" => self.exchangers = value.to_ascii_lowercase(),
            "sessions" => self.sessions = number()?,
            "messages" => self.messages = number()?,
            "recipients" => self.recipients = number()?,
            "sessions_refusal" => self.sessions_refusal = code(value)?,
            "messages_refusal" => self.messages_refusal = code(value)?,
            "recipients_refusal" => self.recipients_refusal = code(value)?,
            "rate" => self.rate = rate(value)?,
            "rate_refusal" => self.rate_refusal = reply(value)?,
            "delay" => self.delay = time(value)?,
            "connect" => {
                self.connect = match value.split_once(' ') {
                    None if value == "accepts" => Connect::Accepts,
                    None if value == "dead" => Connect::Dead,
                    None if value == "mute" => Connect::Mute,
                    None if value == "resets" => Connect::Resets,
                    Some(("refuses", text)) => Connect::Refuses(code(text.trim())?),
                    _ => return Err(format!("connect is accepts, dead, mute, resets or refuses REPLY, not {value:?}")),
                };
            }
            "starttls" => {
                self.starttls = match value {
                    "no" => StartTls::No,
                    "works" => StartTls::Works,
                    "breaks" => StartTls::Breaks,
                    "refuses" => StartTls::Refuses,
                    _ => return Err(format!("starttls is no, works, breaks or refuses, not {value:?}")),
                };
            }
            "greeting" => self.greeting = value.to_owned(),
            "accepted" => self.accepted = code(value)?,
            _ => match REPLIES.iter().find(|(known, _)| *known == name) {
                Some((known, _)) => {
                    self.replies.insert(known, reply(value)?);
                }
                None => return Err(format!("there is no setting {name:?}")),
            },
        }
        Ok(())
    }
}

/// Reads profiles. Later ones of the same name add to earlier ones.
pub fn parse(text: &str, profiles: &mut Vec<Profile>) -> Result<(), BadLine> {
    let mut at = None;
    for (number, line) in text.lines().enumerate() {
        let bad = |why: String| BadLine { line: number + 1, why };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim();
            at = Some(profiles.iter().position(|profile| profile.name == name).unwrap_or_else(|| {
                profiles.push(Profile::plain(name));
                profiles.len() - 1
            }));
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(bad(format!("neither \"[profile]\" nor \"name = value\": {line}")));
        };
        let Some(profile) = at.and_then(|at: usize| profiles.get_mut(at)) else {
            return Err(bad("a setting before the first \"[profile]\"".to_owned()));
        };
        profile.set(name.trim(), value.trim()).map_err(bad)?;
    }
    Ok(())
}

/// `STAGE CODE text`
fn reply(value: &str) -> Result<(When, String), String> {
    let (stage, text) = value.split_once(' ').unwrap_or((value, ""));
    let when = match stage {
        "MAIL" => When::Mail,
        "RCPT" => When::Rcpt,
        "DATA" => When::Data,
        "DOT" => When::Dot,
        _ => return Err(format!("a reply begins with MAIL, RCPT, DATA or DOT, not {stage:?}")),
    };
    Ok((when, code(text.trim())?))
}

fn code(text: &str) -> Result<String, String> {
    let good = text.len() >= 3
        && matches!(text.as_bytes()[0], b'2' | b'4' | b'5')
        && text.as_bytes()[..3].iter().all(u8::is_ascii_digit)
        && text[3..].starts_with([' ', '-'])
        && text.bytes().all(|byte| byte >= b' ');
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("a reply begins with 2NN, 4NN or 5NN and a blank, not {text:?}"))
    }
}

fn rate(value: &str) -> Result<Option<(u32, Duration)>, String> {
    if value == "0" || value == "no" {
        return Ok(None);
    }
    let wrong = || format!("a rate is written NUMBER/TIME (100/60s), not {value:?}");
    let (number, period) = value.split_once('/').ok_or_else(wrong)?;
    let number: u32 = number.trim().parse().map_err(|_| wrong())?;
    let period = time(period.trim())?;
    if number == 0 || period.is_zero() { Err(wrong()) } else { Ok(Some((number, period))) }
}

/// `300ms`, `5s`, `2m`, `1h`; a number alone is seconds.
pub fn time(value: &str) -> Result<Duration, String> {
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 =
        value[..end].parse().map_err(|_| format!("a time is written 300ms, 5s, 2m or 1h, not {value:?}"))?;
    let milliseconds = match &value[end..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("a time is written 300ms, 5s, 2m or 1h, not {value:?}")),
    };
    Ok(Duration::from_millis(number.saturating_mul(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_profiles_are_read() {
        let mut profiles = Vec::new();
        parse(SHIPPED, &mut profiles).expect("shipped");
        let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
        for name in ["plain", "docomo", "au", "softbank", "yahoo", "gmail", "outlook", "dead", "mute"] {
            assert!(names.contains(&name), "{name}");
        }
        let docomo = profiles.iter().find(|profile| profile.name == "docomo").expect("there");
        assert_eq!(docomo.sessions, 1);
        assert_eq!(docomo.reply("filtered").0, When::Dot);
        for (name, text) in REPLIES {
            assert!(reply(text).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let cases = [
            ("sessions = 1", 1, "before the first"),
            ("[a]\nnonsense", 2, "neither"),
            ("[a]\n\nsession = 1", 3, "no setting"),
            ("[a]\nsessions = many", 2, "a number"),
            ("[a]\nunknown = 550 5.1.1 no", 2, "begins with MAIL"),
            ("[a]\nunknown = RCPT no", 2, "begins with 2NN"),
            ("[a]\nrate = 5", 2, "NUMBER/TIME"),
            ("[a]\nrate = 0/5s", 2, "NUMBER/TIME"),
            ("[a]\ndelay = soon", 2, "a time is written"),
            ("[a]\nconnect = maybe", 2, "connect is"),
            ("[a]\nstarttls = yes", 2, "starttls is"),
        ];
        for (text, line, words) in cases {
            let bad = parse(text, &mut Vec::new()).expect_err(text);
            assert_eq!(bad.line, line, "{text}");
            assert!(bad.why.contains(words), "{text}: {bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(time("7"), Ok(Duration::from_secs(7)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert!(time("99999999999999999999s").is_err());
    }
}

//! What receiving sites have taught, as a text: of the file that keeps it, and of the answer to `yamabiko limits`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use yamabiko_envelope::Timestamp;

use crate::learned::Learned;
use crate::schedule::Schedule;
use crate::sites::Known;

/// The file, and the answer to `yamabiko limits`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sheet {
    version: u32,
    sites: Vec<Line>,
}

impl Sheet {
    /// In one line.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_text(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|error| error.to_string())
    }
}

/// One site. What is zero or empty was not learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    site: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    concurrency: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_concurrency: Option<(u32, u64)>,
    rate_delay_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_delay_ms: Option<(u64, u64)>,
    session_messages: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended_until: Option<u64>,
    blocked: bool,
    reply: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    frozen: bool,
    #[serde(skip_deserializing)]
    busy: u32,
}

fn seconds(at: Timestamp) -> u64 {
    at.0 / 1_000_000
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Line {
    /// Names are as they come from DNS: a file that has others is somebody else's work.
    fn is_sound(&self) -> bool {
        let name = |text: &str| text.len() <= 1000 && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        !self.site.is_empty() && name(&self.site) && name(&self.source)
    }

    fn of(known: &Known) -> Self {
        let learned = &known.learned;
        Self {
            site: known.site.clone(),
            source: known.source.clone(),
            concurrency: learned.concurrency,
            refused_concurrency: learned.refused_concurrency.map(|(limit, at)| (limit, seconds(at))),
            rate_delay_ms: millis(learned.rate_delay),
            refused_delay_ms: learned.refused_delay.map(|(delay, at)| (millis(delay), seconds(at))),
            session_messages: learned.session_messages,
            suspended_until: learned.suspended_until.map(seconds),
            blocked: learned.blocked,
            reply: learned.reply.clone(),
            at: learned.at.map(seconds),
            frozen: learned.frozen,
            busy: known.busy,
        }
    }

    fn learned(&self, now: Timestamp) -> Learned {
        let mut learned = Learned::default();
        learned.concurrency = self.concurrency;
        learned.refused_concurrency = self.refused_concurrency.map(|(limit, at)| (limit, Timestamp::from_seconds(at)));
        learned.rate_delay = Duration::from_millis(self.rate_delay_ms.min(86_400_000));
        learned.refused_delay = self
            .refused_delay_ms
            .map(|(delay, at)| (Duration::from_millis(delay.min(86_400_000)), Timestamp::from_seconds(at)));
        learned.session_messages = self.session_messages;
        // Nobody is left alone for longer than a day, whatever became of the file or of the clock.
        let latest = Timestamp::from_seconds(seconds(now).saturating_add(86_400));
        learned.suspended_until = self.suspended_until.map(|until| Timestamp::from_seconds(until).min(latest));
        learned.blocked = self.blocked;
        learned.reply = self.reply.chars().take(300).collect();
        learned.at = self.at.map(Timestamp::from_seconds);
        learned.frozen = self.frozen;
        learned
    }
}

/// Everything known, as it is written.
pub fn sheet(schedule: &Schedule) -> Sheet {
    let mut sites: Vec<Line> = schedule.known_sites().iter().map(Line::of).collect();
    sites.sort_by(|a, b| (&a.site, &a.source).cmp(&(&b.site, &b.source)));
    Sheet { version: 1, sites }
}

/// Reads the text of the file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8]) -> Result<Sheet, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// What the file says counts, as far as it is sound.
pub fn teach(schedule: &mut Schedule, sheet: Sheet, now: Timestamp) {
    for line in sheet.sites.iter().filter(|line| line.is_sound()) {
        schedule.teach(&line.source, &line.site, line.learned(now), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time far away is a day.
    #[test]
    fn nobody_is_left_alone_for_ever() {
        let line = Line { site: "x".into(), suspended_until: Some(u64::MAX), ..Line::default() };
        let until = line.learned(Timestamp::from_seconds(1000)).suspended_until;
        assert_eq!(until, Some(Timestamp::from_seconds(87_400)));
    }

    #[test]
    fn any_text_is_read_or_refused() {
        for text in ["", "{", "[]", "{\"version\":1,\"sites\":[{}]}", "{\"version\":1,\"sites\":[{\"site\":1}]}"] {
            if let Ok(sheet) = serde_json::from_str::<Sheet>(text) {
                assert!(sheet.sites.iter().all(|line| line.learned(Timestamp::from_seconds(9)).is_nothing()), "{text}");
            }
        }
    }
}

//! What receiving sites have taught, on disk and on the control socket.
//!
//! `data_directory/learned-limits.json` is written anew (beside, synced, renamed) a while after something changed and at the
//! end. A file that cannot be read is set aside, and learning begins anew: no mail waits for it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yamabiko_envelope::{Severity, Timestamp};
use yamabiko_schedule::{Known, Learned, Schedule};

use crate::generation::Current;

/// Name of the file.
pub const FILE: &str = "learned-limits.json";
/// Larger files are not ours.
const LARGEST: u64 = 16 << 20;

/// The file, and the answer to `yamabiko limits`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sheet {
    version: u32,
    sites: Vec<Line>,
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

/// The file of this mail system.
pub fn path_of(current: &Current) -> PathBuf {
    Path::new(&current.get().config.main().text("data_directory")).join(FILE)
}

/// Reads the file, if there is one. What is no file, or is too large, is not opened.
fn read(path: &Path) -> Result<Option<Sheet>, String> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(meta) if !meta.is_file() => return Err("it is no file".to_owned()),
        Ok(meta) if meta.len() > LARGEST => return Err("it is too large".to_owned()),
        Ok(_) => {}
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    parse(&text).map(Some)
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

/// What was learned before the restart.
pub fn take_up(schedule: &mut Schedule, current: &Current) {
    let path = path_of(current);
    match read(&path) {
        Ok(None) => {}
        Ok(Some(sheet)) => teach(schedule, sheet, Timestamp::now()),
        Err(why) => {
            let aside = path.with_extension("json.bad");
            let moved = std::fs::rename(&path, &aside).is_ok();
            let what = if moved { format!("; it is {} now", aside.display()) } else { String::new() };
            let text = format!("{}: {why}; limits are learned anew{what}", path.display());
            current.say(Severity::Warning, None, &text);
        }
    }
}

/// Writes the file. Call where it may block.
///
/// # Errors
/// The disk's; the old file is there still.
pub fn write(path: &Path, sheet: &Sheet) -> std::io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = std::fs::File::create(&beside)?;
    let text = serde_json::to_vec_pretty(sheet).map_err(std::io::Error::other)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// What `yamabiko limits` asks for, by its words. The answer, or why not.
///
/// # Errors
/// A text for people.
pub fn operate(schedule: &mut Schedule, words: &[String], now: Timestamp) -> Result<String, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let count = |n: usize, done: &str, site: &str| match n {
        0 => Err(format!("nothing is known of {site}")),
        _ => Ok(format!("{site}: {done}")),
    };
    match words.as_slice() {
        ["list"] => serde_json::to_string(&sheet(schedule)).map_err(|error| error.to_string()),
        ["freeze", site] => count(schedule.freeze_site(site, true), "frozen", site),
        ["thaw", site] => count(schedule.freeze_site(site, false), "learns again", site),
        ["forget", "ALL"] => {
            let known = schedule.known_sites();
            known.iter().for_each(|known| {
                schedule.forget_site(&known.site, now);
            });
            Ok(format!("{} forgotten", known.len()))
        }
        ["forget", site] => count(schedule.forget_site(site, now), "forgotten", site),
        ["set", site, settings @ ..] if !settings.is_empty() => {
            let known = schedule.known_sites();
            let of_site: Vec<&Known> = known.iter().filter(|known| known.site == *site).collect();
            let sources = match of_site.as_slice() {
                [] => vec![(String::new(), Learned::default())],
                some => some.iter().map(|known| (known.source.clone(), known.learned.clone())).collect(),
            };
            for (source, mut learned) in sources {
                for setting in settings {
                    set(&mut learned, setting)?;
                }
                learned.reply = "set by an operator".to_owned();
                learned.at = Some(now);
                learned.frozen = true;
                schedule.teach(&source, site, learned, now);
            }
            Ok(format!("{site}: set and frozen"))
        }
        _ => Err("list, freeze SITE, thaw SITE, forget SITE|ALL, set SITE name=value ...".to_owned()),
    }
}

fn set(learned: &mut Learned, setting: &str) -> Result<(), String> {
    let (name, value) = setting.split_once('=').ok_or_else(|| format!("{setting}: name=value is wanted"))?;
    let number = || value.parse::<u32>().map_err(|_| format!("{name}: a number is wanted, not {value:?}"));
    match name {
        "concurrency" => learned.concurrency = number()?,
        "messages" => learned.session_messages = number()?,
        "rate_delay" => {
            let seconds = value.trim_end_matches('s').parse::<f64>().ok().filter(|s| (0.0..=86_400.0).contains(s));
            let seconds = seconds.ok_or_else(|| format!("rate_delay: seconds are wanted, not {value:?}"))?;
            learned.rate_delay = Duration::from_secs_f64(seconds);
        }
        _ => return Err(format!("{name}: there are concurrency, messages and rate_delay")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(schedule: &mut Schedule, words: &str) -> Result<String, String> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        operate(schedule, &words, Timestamp::from_seconds(1_000_000))
    }

    #[test]
    fn operators_and_the_file() {
        let mut schedule = Schedule::new(yamabiko_schedule::Settings::default());
        assert!(said(&mut schedule, "freeze google.com").is_err());
        let ok = said(&mut schedule, "set google.com concurrency=3 rate_delay=0.25 messages=9");
        assert_eq!(ok.as_deref(), Ok("google.com: set and frozen"));
        assert!(said(&mut schedule, "set google.com speed=3").is_err());
        assert!(said(&mut schedule, "set google.com concurrency=x").is_err());
        assert!(said(&mut schedule, "set google.com rate_delay=-1").is_err());
        assert!(said(&mut schedule, "dance").is_err());
        let list = said(&mut schedule, "list").unwrap();
        assert!(list.contains("\"rate_delay_ms\":250") && list.contains("set by an operator"), "{list}");
        // There and back.
        let read: Sheet = serde_json::from_str(&list).unwrap();
        let mut other = Schedule::new(yamabiko_schedule::Settings::default());
        for line in &read.sites {
            other.teach(&line.source, &line.site, line.learned(Timestamp::from_seconds(1)), Timestamp::from_seconds(1));
        }
        assert_eq!(other.known_sites(), schedule.known_sites());
        assert_eq!(said(&mut schedule, "forget google.com").as_deref(), Ok("google.com: forgotten"));
        assert_eq!(schedule.known_sites(), []);
    }

    #[test]
    fn any_text_is_read_or_refused() {
        for text in ["", "{", "[]", "{\"version\":1,\"sites\":[{}]}", "{\"version\":1,\"sites\":[{\"site\":1}]}"] {
            if let Ok(sheet) = serde_json::from_str::<Sheet>(text) {
                assert!(sheet.sites.iter().all(|line| line.learned(Timestamp::from_seconds(9)).is_nothing()), "{text}");
            }
        }
    }

    #[test]
    fn a_file_that_is_none_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert!(matches!(read(&path), Ok(None)));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path).unwrap_err(), "it is no file");
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path).unwrap_err(), "it is too large");
        std::fs::write(&path, "{\"version\":1,\"sites\":[{\"site\":\"x\\u001b[2J\"},{\"site\":\"\"}]}").unwrap();
        assert!(read(&path).unwrap().unwrap().sites.iter().all(|line| !line.is_sound()));
        // A time far away is a day.
        let line = Line { site: "x".into(), suspended_until: Some(u64::MAX), ..Line::default() };
        let until = line.learned(Timestamp::from_seconds(1000)).suspended_until;
        assert_eq!(until, Some(Timestamp::from_seconds(87_400)));
    }

    /// Pieces of real files, profiles and replies, put together at random.
    #[test]
    fn made_up_input_is_read_or_refused() {
        const PIECES: &[&str] = &[
            "{\"version\":1,\"sites\":[",
            "{\"site\":\"a.test\",",
            "\"concurrency\":",
            "4294967296",
            "-1",
            "1",
            "3e400",
            "null",
            "]}",
            "},",
            "}",
            "\"suspended_until\":",
            "\"rate_delay_ms\":",
            "\"refused_concurrency\":[1,2]",
            "\"frozen\":true",
            ",",
            "\"",
            "[docomo]\n",
            "[",
            "]",
            "\n",
            "concurrency = ",
            "rate_delay = ",
            "messages=",
            "sites = ",
            "5s",
            "1e9h",
            ".",
            "NaN",
            "..5ms",
            "try again in ",
            "300 seconds",
            "18446744073709551615 hours",
            "retry after",
            "5 minutes",
            " wait ",
            "h",
            "é",
            "\u{0}",
            " ",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap_or(0)
        };
        let now = Timestamp::from_seconds(1000);
        for _ in 0..20_000 {
            let text: String = (0..next() % 14).map(|_| PIECES[next() % PIECES.len()]).collect();
            if let Ok(sheet) = serde_json::from_str::<Sheet>(&text) {
                let day = Duration::from_secs(86_400);
                assert!(sheet.sites.iter().all(|line| line.learned(now).rate_delay <= day), "{text}");
            }
            let (rules, _) = crate::profiles::rules("/x, all", |_| Ok(text.clone()));
            assert!(rules.iter().all(|rule| rule.limits.rate_delay.as_secs() <= 86_400), "{text}");
            let wait = crate::meaning::hinted_wait(&text);
            assert!(wait.is_none_or(|wait| wait.as_secs() <= 86_400), "{text}");
        }
    }
}

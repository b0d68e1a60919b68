//! What receiving sites have taught, on disk and on the control socket.
//!
//! `data_directory/learned-limits.json` is written anew (beside, synced, renamed) a while after something changed and at the
//! end. A file that cannot be read is set aside, and learning begins anew: no mail waits for it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use yamabiko_envelope::{Severity, Timestamp};
pub use yamabiko_schedule::sheet::sheet;
use yamabiko_schedule::sheet::{Sheet, parse, teach};
use yamabiko_schedule::{Known, Learned, Schedule};

use crate::generation::Current;

/// Name of the file.
pub const FILE: &str = "learned-limits.json";
/// Larger files are not ours.
const LARGEST: u64 = 16 << 20;

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
        ["list"] => sheet(schedule).to_text(),
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
        teach(&mut other, read, Timestamp::from_seconds(1));
        assert_eq!(other.known_sites(), schedule.known_sites());
        assert_eq!(said(&mut schedule, "forget google.com").as_deref(), Ok("google.com: forgotten"));
        assert_eq!(schedule.known_sites(), []);
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
        let mut schedule = Schedule::new(yamabiko_schedule::Settings::default());
        teach(&mut schedule, read(&path).unwrap().unwrap(), Timestamp::from_seconds(1));
        assert_eq!(schedule.known_sites(), []);
    }
}

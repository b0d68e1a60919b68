//! Sending profiles: limits of receivers that are known, from the shipped file and from those of the administrator.

use std::sync::Arc;
use std::time::Duration;

use crate::site::{SiteLimits, SiteRule};

/// The file that comes with the program.
pub const SHIPPED: &str = include_str!("../../../conf/sending-profiles.cf");

/// What `TRANSPORT_sending_profiles` asks for: names of profiles, `all`, and files (with a `/`), whose profiles all count.
/// With what cannot be obeyed.
pub fn rules(wanted: &str, read: impl Fn(&str) -> Result<String, String>) -> (Arc<[SiteRule]>, Vec<String>) {
    let words: Vec<&str> = wanted.split([',', ' ', '\t', '\n', '\r']).filter(|word| !word.is_empty()).collect();
    let (mut remarks, mut known, mut chosen) = (Vec::new(), Vec::new(), Vec::new());
    if words.is_empty() {
        return (Arc::new([]), remarks);
    }
    // The shipped text is read by a test.
    if let Err(why) = parse(SHIPPED, &mut known) {
        remarks.push(format!("shipped profiles: {why}"));
    }
    let shipped = known.len();
    for file in words.iter().filter(|word| word.contains('/')) {
        let before = known.clone();
        match read(file).and_then(|text| parse(&text, &mut known)) {
            Ok(named) => chosen.extend(named),
            Err(why) => {
                // Half a file is worse than none.
                known = before;
                remarks.push(format!("{file}: {why}"));
            }
        }
    }
    for word in words.iter().filter(|word| !word.contains('/')) {
        if *word == "all" {
            chosen.extend(known.iter().take(shipped).map(|rule| rule.name.clone()));
        } else if known.iter().any(|rule| rule.name == *word) {
            chosen.push((*word).to_owned());
        } else {
            let names: Vec<&str> = known.iter().map(|rule| rule.name.as_str()).collect();
            remarks.push(format!("there is no profile \"{word}\"; there are: {}", names.join(" ")));
        }
    }
    known.retain(|rule| chosen.contains(&rule.name) && !rule.sites.is_empty());
    (known.into(), remarks)
}

/// Reads profiles into `rules`, where later ones of a name add to earlier ones. The names that the text has.
fn parse(text: &str, rules: &mut Vec<SiteRule>) -> Result<Vec<String>, String> {
    let (mut names, mut at) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why: String| format!("line {}: {why}", number + 1);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim().to_owned();
            at = Some(rules.iter().position(|rule| rule.name == name).unwrap_or_else(|| {
                rules.push(SiteRule { name: name.clone(), ..SiteRule::default() });
                rules.len() - 1
            }));
            names.push(name);
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(bad(format!("neither \"[profile]\" nor \"name = value\": {line}")));
        };
        let Some(rule) = at.and_then(|at: usize| rules.get_mut(at)) else {
            return Err(bad("a setting before the first \"[profile]\"".to_owned()));
        };
        set(rule, name.trim(), value.trim()).map_err(bad)?;
    }
    Ok(names)
}

fn set(rule: &mut SiteRule, name: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u32>().map_err(|_| format!("{name} wants a number, not {value:?}"));
    let SiteLimits { concurrency, rate_delay, session_messages, session_pause, recipients } = &mut rule.limits;
    match name {
        "sites" => {
            let names = value.split([',', ' ', '\t']).filter(|name| !name.is_empty());
            rule.sites = names.map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect();
        }
        "concurrency" => *concurrency = number()?,
        "messages" => *session_messages = number()?,
        "recipients" => *recipients = number()? as usize,
        "rate_delay" => *rate_delay = time(value)?,
        "session_pause" => *session_pause = time(value)?,
        _ => return Err(format!("there is no setting {name:?}")),
    }
    Ok(())
}

/// `200ms`, `5s`, `5` (seconds), `2m`, `1h`
fn time(value: &str) -> Result<Duration, String> {
    let digits = value.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    // Digits and dots are single bytes.
    let (number, unit) = value.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{value:?}: a time is a number and ms, s, m or h")),
    };
    let seconds = number.parse::<f64>().map(|number| number * factor);
    match seconds {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("{value:?}: a time is a number and ms, s, m or h, a day at most")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Result<String, String> {
        Err("no such file".to_owned())
    }

    #[test]
    fn the_shipped_file() {
        let (rules, remarks) = rules("all", none);
        let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["docomo", "au", "softbank", "yahoo-japan", "gmail", "outlook", "icloud"]);
        assert_eq!(remarks, [""; 0]);
        assert!(rules.iter().all(|rule| rule.limits.concurrency > 0 && !rule.sites.is_empty()));
    }

    #[test]
    fn one_line_is_enough() {
        let (found, remarks) = rules("docomo, gmail", none);
        assert_eq!((found.len(), remarks.len()), (2, 0));
        let limits = SiteLimits { concurrency: 1, session_messages: 10, recipients: 1, ..SiteLimits::default() };
        assert_eq!(found[0].limits, limits);
        let (found, remarks) = rules("docome /x", none);
        assert!(found.is_empty() && remarks[0] == "/x: no such file" && remarks[1].contains("there are: docomo au"));
        assert!(rules("", none).0.is_empty());
    }

    #[test]
    fn a_file_of_ones_own() {
        let text = |_: &str| Ok("[docomo]\nmessages = 2\nsession_pause = 5s\n[mine]\nsites = A.example\n".to_owned());
        let (found, remarks) = rules("/etc/mine", text);
        assert_eq!(remarks, [""; 0]);
        let names: Vec<&str> = found.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["docomo", "mine"]);
        let limits = &found[0].limits;
        assert_eq!((limits.concurrency, limits.session_messages, limits.session_pause), (1, 2, Duration::from_secs(5)));
        assert!(found[1].covers("a.example"));
    }

    #[test]
    fn faults_are_named() {
        for (text, why) in [
            ("x", "line 1: neither"),
            ("concurrency = 1", "line 1: a setting before"),
            ("[a]\nconcurrency = many", "line 2: concurrency wants a number"),
            ("[a]\nspeed = 1", "line 2: there is no setting"),
            ("[a]\nrate_delay = 1w", "line 2: \"1w\": a time"),
            ("[a]\nrate_delay = 1.2.3", "line 2: \"1.2.3\": a time"),
        ] {
            let said = parse(text, &mut Vec::new()).unwrap_err();
            assert!(said.starts_with(why), "{said}");
        }
    }
}

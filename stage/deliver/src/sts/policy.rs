//! What a domain publishes for MTA-STS: the record in DNS that says that there is a policy, and the policy (RFC 8461
//! section 3).

use yamabiko_address::domain;

/// `max_age` may be so long: a year and a leap day. RFC 8461 section 3.2
const LONGEST: u64 = 31_557_600;
/// `mx` lines that are kept.
const MOST_PATTERNS: usize = 1000;

/// How a policy is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `none`: as if there were none.
    #[default]
    None,
    /// `testing`: report what fails, deliver all the same.
    Testing,
    /// `enforce`: deliver nothing to servers that do not fit.
    Enforce,
}

impl Mode {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Testing => "testing",
            Self::Enforce => "enforce",
        }
    }
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StsPolicy {
    /// How it is meant.
    pub mode: Mode,
    /// Mail exchangers, in small letters; those that begin with `*.` stand for one label more.
    pub patterns: Vec<String>,
    /// Seconds for which it holds after it was fetched.
    pub max_age: u64,
}

impl StsPolicy {
    /// Reads a policy. RFC 8461 section 3.2: unknown fields are passed over, of a field that is there twice the first one
    /// counts, but for `mx`.
    ///
    /// # Errors
    /// It is none; in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let mut patterns = Vec::new();
        for line in text.split('\n') {
            let line = line.trim_matches([' ', '\t', '\r']);
            let Some((name, value)) = line.split_once(':') else {
                if line.is_empty() {
                    continue;
                }
                return Err("a line has no colon".to_owned());
            };
            let (name, value) = (name.trim(), value.trim());
            match name {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" => {
                    let pattern = value.to_ascii_lowercase();
                    let host = pattern.strip_prefix("*.").unwrap_or(&pattern);
                    if !domain::valid_hostname(host) {
                        return Err(format!("bad mx \"{}\"", shown(value)));
                    }
                    if patterns.len() < MOST_PATTERNS {
                        patterns.push(pattern);
                    }
                }
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err("it has no \"version: STSv1\"".to_owned());
        }
        let mode = match mode {
            Some("none") => Mode::None,
            Some("testing") => Mode::Testing,
            Some("enforce") => Mode::Enforce,
            Some(other) => return Err(format!("unknown mode \"{}\"", shown(other))),
            None => return Err("it has no mode".to_owned()),
        };
        let max_age = max_age.filter(|value| value.len() <= 10).and_then(|value| value.parse::<u64>().ok());
        let Some(max_age) = max_age else { return Err("it has no max_age".to_owned()) };
        if patterns.is_empty() && mode != Mode::None {
            return Err("it has no mx".to_owned());
        }
        Ok(Self { mode, patterns, max_age: max_age.min(LONGEST) })
    }

    /// The host is one of its mail exchangers. RFC 8461 section 4.1
    pub fn covers(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.patterns.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => *pattern == host,
        })
    }

    /// As a file, lines as in what was fetched.
    pub fn to_text(&self) -> String {
        let mut text = format!("version: STSv1\nmode: {}\n", self.mode.word());
        for pattern in &self.patterns {
            text.push_str(&format!("mx: {pattern}\n"));
        }
        text.push_str(&format!("max_age: {}\n", self.max_age));
        text
    }
}

/// What a stranger wrote, for one line of the log.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

/// The `id` of the record of `_mta-sts.DOMAIN`; `None` when there is none that counts. RFC 8461 section 3.1: there must be
/// just one record that begins with `v=STSv1;`.
pub fn record_id<'a>(records: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut records = records.into_iter().filter(|text| {
        text.trim_start().strip_prefix("v=STSv1").is_some_and(|rest| rest.trim_start().starts_with(';'))
    });
    let record = records.next()?;
    if records.next().is_some() {
        return None;
    }
    let id = record.split(';').skip(1).find_map(|field| {
        let (name, value) = field.split_once('=')?;
        (name.trim() == "id").then(|| value.trim())
    })?;
    let good = !id.is_empty() && id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    good.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let table: &[(&[&str], Option<&str>)] = &[
            (&["v=STSv1; id=20160831085700Z;"], Some("20160831085700Z")),
            (&["v=STSv1;id=1"], Some("1")),
            (&["other", "v=STSv1; x=y; id=2"], Some("2")),
            (&["v=STSv1; id=1", "v=STSv1; id=2"], None),
            (&["v=STSv10; id=1"], None),
            (&["v=STSv1"], None),
            (&["v=STSv1; id="], None),
            (&["v=STSv1; id=a/b"], None),
            (&["v=STSv1; id=123456789012345678901234567890123"], None),
            (&[], None),
        ];
        for (records, wanted) in table {
            assert_eq!(record_id(records.iter().copied()).as_deref(), *wanted, "{records:?}");
        }
    }

    #[test]
    fn policies() {
        let good =
            "version: STSv1\r\nmode: enforce\r\nmx: mail.Example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";
        let policy = StsPolicy::parse(good).unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, 604_800));
        assert_eq!(StsPolicy::parse(&policy.to_text()).unwrap(), policy);
        let table = [
            ("mail.example.com", true),
            ("MAIL.example.com.", true),
            ("x.mail.example.com", false),
            ("a.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            (".example.net", false),
            ("", false),
        ];
        for (host, wanted) in table {
            assert_eq!(policy.covers(host), wanted, "{host}");
        }
        let bad = [
            "",
            "version: STSv2\nmode: none\nmax_age: 1",
            "mode: none\nmax_age: 1",
            "version: STSv1\nmode: maybe\nmx: a\nmax_age: 1",
            "version: STSv1\nmode: enforce\nmax_age: 1",
            "version: STSv1\nmode: enforce\nmx: a_b..c\nmax_age: 1",
            "version: STSv1\nmode: testing\nmx: a.b\n",
            "version: STSv1\nmode: testing\nmx: a.b\nmax_age: -1",
            "version: STSv1\nmode: testing\nmx: a.b\nmax_age: 99999999999999999999",
            "<html>\n",
        ];
        for text in bad {
            assert!(StsPolicy::parse(text).is_err(), "{text:?}");
        }
        let none = StsPolicy::parse("version: STSv1\nmode: none\nmode: enforce\nmax_age: 99999999").unwrap();
        assert_eq!((none.mode, none.max_age), (Mode::None, LONGEST));
    }
}

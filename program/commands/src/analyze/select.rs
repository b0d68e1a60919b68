//! Which findings are wanted.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use yamabiko_analyze::{Finding, Reason};

use super::options::{Hardness, Options};

/// A choice among findings.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    delivered: bool,
    vacation: bool,
    no_feedback: bool,
    reasons: Vec<String>,
    since: Option<i64>,
    only: Option<Hardness>,
}

impl Selection {
    /// What the options ask for. `now` in seconds since the epoch.
    pub fn new(options: &Options, now: i64) -> Result<Self, String> {
        Ok(Self {
            delivered: options.delivered || options.reason.iter().any(|name| name == "delivered"),
            vacation: options.vacation || options.reason.iter().any(|name| name == "vacation"),
            no_feedback: options.no_feedback,
            reasons: options.reason.clone(),
            since: options.since.as_deref().map(|text| moment(text, now)).transpose()?,
            only: options.only,
        })
    }

    /// Is it wanted?
    pub fn wants(&self, finding: &Finding) -> bool {
        let kind = match finding.reason {
            Reason::Delivered => self.delivered,
            Reason::Vacation => self.vacation,
            Reason::Feedback => !self.no_feedback,
            _ => true,
        };
        let named = |wanted: &String| *wanted == finding.reason.name() || *wanted == finding.reason.merged_name();
        kind && (self.reasons.is_empty() || self.reasons.iter().any(named))
            && self.since.is_none_or(|since| finding.date.is_some_and(|date| date.seconds >= since))
            && match self.only {
                None => true,
                Some(Hardness::Hard) => finding.hard_bounce,
                Some(Hardness::Soft) => !finding.hard_bounce && !finding.reason.is_no_failure(),
            }
    }
}

/// A moment as people write it, in seconds since the epoch: a date, a date and a time, or how long ago.
pub fn moment(text: &str, now: i64) -> Result<i64, String> {
    let text = text.trim();
    let ago = text.split_at_checked(text.len().saturating_sub(1)).and_then(|(number, unit)| {
        let number: i64 = number.parse().ok()?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        number.checked_mul(seconds)
    });
    if let Some(ago) = ago {
        return Ok(now.saturating_sub(ago));
    }
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Ok(exact.as_second());
    }
    let local = text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)).or_else(|_| text.parse::<DateTime>());
    local
        .ok()
        .and_then(|local| local.to_zoned(TimeZone::system()).ok())
        .map(|zoned| zoned.timestamp().as_second())
        .ok_or_else(|| format!("{text}: no moment; write 2026-11-01, 2026-11-01T09:00, 36h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, wanted) in [
            ("90s", Some(999_910)),
            ("2h", Some(992_800)),
            ("1d", Some(913_600)),
            ("1w", Some(395_200)),
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T09:00:00+09:00", Some(86_400)),
            ("yesterday", None),
            ("", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(moment(text, 1_000_000).ok(), wanted, "{text}");
        }
        assert!(moment("2026-11-01", 0).is_ok() && moment("2026-11-01T09:00", 0).is_ok());
    }
}
